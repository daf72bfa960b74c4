"""The engine against a worker that the test plays itself, frame by frame: every order of events can be had."""

import asyncio
import dataclasses
import os

import numpy as np
import pytest

from app.engine.engine import Engine, worker_configs
from app.engine.jobs import LatentJob, ModelInfo, WorkerConfig
from app.engine.link import FrameReader, pack
from app.errors import ComputeFailed, Draining, ModelNotFound, NotReady, Overloaded, WorkerDied
from app.telemetry import Telemetry
from tests.serving import eventually, metric

INFO = ModelInfo("echo", latent_shape=(2,), num_classes=10, image_shape=(1, 1, 1), buckets=(1, 8), seconds=(0.1, 0.8))
BROKEN = ModelInfo("broken", error="config.json: missing")
RUNTIME = {"device": "cpu", "torch": "2"}


class Played:
    """A launch that starts nothing, and the far end of its socket in the hands of the test."""

    def __init__(self):
        self.frames, self.reader, self.sock = [], FrameReader(), None

    def __call__(self, sock):
        sock.setblocking(False)
        self.sock = sock
        return self

    pid = os.getpid()  # as a thread's: the engine leaves the socket to us

    def wait(self, timeout):
        return 0

    def kill(self):
        raise AssertionError("this worker ends when asked")

    async def receive(self):
        """The next frame from the engine."""
        while not self.frames:
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 1 << 20), 10)
            assert data, "the engine has closed the link"
            self.frames += self.reader.feed(data)
        return self.frames.pop(0)

    def send(self, header, *arrays):
        for part in pack(header, arrays):
            self.sock.sendall(part)

    def ready(self, *models):
        self.send({"type": "ready", "models": [dataclasses.asdict(m) for m in models or (INFO,)], "runtime": RUNTIME})

    def batch(self, *parts, seconds=0.1, padding=0):
        """Answer (job, offset, pixels or error) parts; a picture is one pixel."""
        pixels = [p for _, _, got in parts if not isinstance(got, str) for p in got]
        described = [(job, at, 1, got) if isinstance(got, str) else (job, at, len(got), None) for job, at, got in parts]
        header = {"type": "batch", "model": "echo", "parts": described, "waited": [0.0] * len(parts)}
        header |= {"rows": sum(part[2] for part in described), "padding": padding, "seconds": seconds}
        self.send(header, np.array(pixels, np.uint8).reshape(-1, 1, 1, 1))

    def close(self):
        self.sock.close()


@dataclasses.dataclass
class Bench:
    engine: Engine
    workers: list[Played]
    failures: list[str]
    telemetry: Telemetry

    @property
    def worker(self):
        return self.workers[0]

    def metric(self, name, **labels):
        from prometheus_client import generate_latest

        return metric(generate_latest(self.telemetry.registry).decode(), f"genserve_{name}", **labels)


async def settle():
    """Let everything that is due on the event loop happen, sockets included."""
    for _ in range(5):
        await asyncio.sleep(0.001)


@pytest.fixture
async def make():
    benches = []

    async def make(workers=1, max_queue=64, ready=True):
        played, failures, telemetry = [Played() for _ in range(workers)], [], Telemetry()
        launches = iter(played)
        configs = [WorkerConfig("weights", device=f"cuda:{i}") for i in range(workers)]
        engine = Engine(
            configs,
            max_queue=max_queue,
            telemetry=telemetry,
            on_failure=lambda: failures.append(engine.failure),
            launch=lambda sock: next(launches)(sock),
        )
        benches.append(Bench(engine, played, failures, telemetry))
        await engine.start()
        for worker in played:
            configure = await worker.receive()
            assert configure.type == "configure"
            worker.device = configure.header["config"]["device"]
            if ready:
                worker.ready()
        if ready:
            await eventually(lambda: engine.ready)
        return benches[-1]

    yield make
    for bench in benches:
        await bench.engine.stop()
        for worker in bench.workers:
            worker.close()


def job(rows=1, start=0):
    latents = np.arange(start, start + rows, dtype=np.float32)[:, None].repeat(2, axis=1)
    return LatentJob("echo", latents, np.arange(rows, dtype=np.int64) % 10)


async def test_what_is_submitted_in_one_turn_travels_in_one_frame(make):
    bench = await make()
    futures = [bench.engine.submit(job(rows)) for rows in (1, 2, 3)]
    frame = await bench.worker.receive()
    assert frame.type == "submit"
    numbers = [number for number, model in frame.header["jobs"]]
    assert len(set(numbers)) == 3
    assert [len(array) for array in frame.arrays] == [1, 1, 2, 2, 3, 3]
    np.testing.assert_array_equal(frame.arrays[2], job(2).latents)
    np.testing.assert_array_equal(frame.arrays[3], [0, 1])
    bench.worker.batch((numbers[2], 0, [7, 8, 9]), (numbers[0], 0, [1]), (numbers[1], 0, [4, 5]))
    assert [f.ravel().tolist() for f in await asyncio.gather(*futures)] == [[1], [4, 5], [7, 8, 9]]
    assert bench.engine.in_flight == 0


async def test_a_job_may_come_back_in_pieces_and_in_any_order(make):
    bench = await make()
    future = bench.engine.submit(job(5))
    number = (await bench.worker.receive()).header["jobs"][0][0]
    bench.worker.batch((number, 3, [13, 14]))
    bench.worker.batch((number, 0, [10]))
    await settle()
    assert not future.done()
    bench.worker.batch((number, 1, [11, 12]), padding=6, seconds=0.5)
    assert (await future).ravel().tolist() == [10, 11, 12, 13, 14]
    assert bench.metric("images_total", model="echo") == 5
    assert bench.metric("batch_size_count") == 3
    assert bench.metric("padding_rows_total") == 6
    assert bench.metric("queue_depth") == 0
    assert bench.metric("compute_duration_seconds_sum") == pytest.approx(0.7)


async def test_a_failed_part_fails_its_job_alone(make):
    bench = await make()
    bad, good = bench.engine.submit(job(4)), bench.engine.submit(job(1))
    numbers = [number for number, _ in (await bench.worker.receive()).header["jobs"]]
    bench.worker.batch((numbers[0], 0, "the model raised X"), (numbers[1], 0, [9]))
    assert (await good).ravel().tolist() == [9]
    with pytest.raises(ComputeFailed, match="the model raised X"):
        await bad
    assert (await bench.worker.receive()).header["jobs"] == [numbers[0]], "its other rows are given up"
    bench.worker.batch((numbers[0], 1, [1, 2, 3]))  # was on its way already
    assert (await asyncio.wait_for(_echo(bench), 10)) == [5]


async def _echo(bench):
    """One more round, to show that all is well."""
    future = bench.engine.submit(job(1))
    while (frame := await bench.worker.receive()).type != "submit":
        pass
    bench.worker.batch((frame.header["jobs"][0][0], 0, [5]))
    return (await future).ravel().tolist()


async def test_cancelling_frees_the_rows_and_tells_the_worker(make):
    bench = await make(max_queue=64)
    future = bench.engine.submit(job(64))
    number = (await bench.worker.receive()).header["jobs"][0][0]
    with pytest.raises(Overloaded):
        bench.engine.submit(job(1))
    assert bench.metric("queue_depth") == 64
    future.cancel()
    frame = await bench.worker.receive()
    assert (frame.type, frame.header["jobs"]) == ("cancel", [number])
    assert bench.engine.in_flight == 0
    assert bench.metric("queue_depth") == 0
    assert bench.metric("cancelled_total", model="echo") == 1
    assert await _echo(bench) == [5]


async def test_a_job_given_up_before_it_was_sent_is_never_sent(make):
    bench = await make()
    gone, kept = bench.engine.submit(job(1)), bench.engine.submit(job(2))
    gone.cancel()
    await asyncio.sleep(0)
    frame = await bench.worker.receive()
    assert [len(array) for array in frame.arrays] == [2, 2]
    bench.worker.batch((frame.header["jobs"][0][0], 0, [1, 2]))
    assert (await kept).ravel().tolist() == [1, 2]


async def test_queue_bound(make):
    bench = await make(max_queue=64)
    first = bench.engine.submit(job(60))
    with pytest.raises(Overloaded) as caught:
        bench.engine.submit(job(5))
    assert caught.value.retry_after == pytest.approx(60 * 0.1 / 2), "half of 60 rows at the measured 0.1 s"
    assert bench.metric("rejected_total", reason="queue_full") == 1
    assert bench.engine.in_flight == 1
    bench.engine.submit(job(4))
    frame = await bench.worker.receive()
    bench.worker.batch((frame.header["jobs"][0][0], 0, list(range(60))))
    await first
    bench.engine.submit(job(60))


async def test_not_ready_until_every_worker_is(make):
    bench = await make(workers=2, ready=False)
    announced = []
    bench.engine.when_ready(lambda: announced.append(1))
    for expected_ready in (False, True):
        assert not bench.engine.ready
        with pytest.raises(NotReady) as caught:
            bench.engine.submit(job())
        assert caught.value.retry_after
        bench.workers[int(expected_ready)].ready()
        await eventually(lambda: len(bench.engine.models) == 1)
        await settle()
    assert bench.engine.ready
    assert announced == [1]
    assert str(bench.engine.runtime) == "cpu; torch 2"


async def test_work_goes_to_the_worker_with_the_least_of_it(make):
    bench = await make(workers=2)
    assert sorted(worker.device for worker in bench.workers) == ["cuda:0", "cuda:1"]
    for rows in (8, 4, 2, 1):
        bench.engine.submit(job(rows))
    frames = [await worker.receive() for worker in bench.workers]
    assert sorted([len(a) for a in frame.arrays[::2]] for frame in frames) == [[4, 2, 1], [8]]


async def test_models_that_failed_are_shown_and_not_served(make):
    bench = await make(ready=False)
    bench.worker.ready(INFO, BROKEN)
    await eventually(lambda: bench.engine.ready)
    assert bench.engine.model("echo", "latent") == INFO, "tuples are tuples again"
    with pytest.raises(ModelNotFound, match="'broken'"):
        bench.engine.model("broken", "latent")
    with pytest.raises(ModelNotFound, match="'other'") as caught:
        bench.engine.model("other", "latent")
    assert caught.value.field == "model"


async def test_a_dead_worker_fails_what_it_held(make):
    bench = await make()
    futures = [bench.engine.submit(job(rows)) for rows in (1, 64 - 1)]
    await bench.worker.receive()
    bench.worker.close()
    for future in futures:
        with pytest.raises(WorkerDied, match="ended unexpectedly"):
            await future
    assert not bench.engine.ready
    assert len(bench.failures) == 1
    with pytest.raises(WorkerDied):
        bench.engine.submit(job())
    await eventually(lambda: bench.engine.in_flight == 0)
    assert bench.metric("queue_depth") == 0


async def test_one_of_two_dead_workers_ends_it_all_once(make):
    bench = await make(workers=2)
    futures = [bench.engine.submit(job()) for _ in range(4)]
    bench.workers[1].close()
    for future in futures:
        with pytest.raises(WorkerDied):
            await future
    bench.workers[0].close()
    await settle()
    assert len(bench.failures) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_worker_that_talks_nonsense_is_a_dead_worker(make, caplog):
    bench = await make()
    future = bench.engine.submit(job())
    bench.worker.sock.sendall(b"\xff" * 64)
    with pytest.raises(WorkerDied):
        await future


async def test_a_start_that_is_refused_says_why(make):
    bench = await make(ready=False)
    bench.worker.send({"type": "failed", "error": "weights: no such folder"})
    bench.worker.close()
    await eventually(lambda: bench.failures)
    await settle()
    assert bench.failures == ["weights: no such folder"]
    with pytest.raises(WorkerDied, match="no such folder"):
        bench.engine.check_open()


async def test_drain_refuses_new_work_and_waits_for_the_old(make):
    bench = await make()
    future = bench.engine.submit(job())
    number = (await bench.worker.receive()).header["jobs"][0][0]
    drain = asyncio.ensure_future(bench.engine.drain(60))
    await settle()
    assert not drain.done()
    assert not bench.engine.ready
    with pytest.raises(Draining):
        bench.engine.submit(job())
    bench.worker.batch((number, 0, [3]))
    assert await drain is True
    assert (await future).ravel().tolist() == [3]


async def test_drain_gives_up_in_the_end(make):
    bench = await make()
    future = bench.engine.submit(job())
    assert await bench.engine.drain(0.01) is False
    with pytest.raises(Draining):
        await future


async def test_stopping_fails_what_is_in_flight(make):
    bench = await make()
    future = bench.engine.submit(job())
    await bench.engine.stop()
    with pytest.raises(Draining):
        await future


async def test_drain_of_an_idle_engine_is_immediate(make):
    bench = await make()
    assert await bench.engine.drain(0) is True


def test_workers_share_the_cores():
    base = WorkerConfig("weights", max_batch=7)
    configs = worker_configs(base, ["cpu", "cpu", "cpu"], 8)
    assert [(c.device, c.threads, c.max_batch) for c in configs] == [("cpu", 2, 7)] * 3
    assert [c.threads for c in worker_configs(base, ["cpu"] * 9, 8)] == [1] * 9
    assert [c.threads for c in worker_configs(dataclasses.replace(base, threads=5), ["cpu"] * 2, 8)] == [5, 5]
