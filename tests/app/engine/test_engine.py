"""The engine against a worker that the test plays itself, frame by frame: every order of events can be had."""

import asyncio
import dataclasses
import os

import numpy as np
import pytest

from app.engine import keeper, lane, link
from app.engine.engine import Engine, worker_configs
from app.engine.jobs import Grammar, LatentJob, ModelInfo, Sampling, SequenceJob, WorkerConfig
from app.engine.keeper import Patience
from app.engine.link import FrameReader, pack
from app.engine.terms import Terms
from app.errors import (
    ComputeFailed,
    DeadlineExceeded,
    Draining,
    InvalidField,
    KillsWorker,
    ModelNotFound,
    NotReady,
    Overloaded,
    WorkerDied,
)
from app.telemetry import Telemetry
from app.worker.loop import _sequence_job
from tests.serving import eventually, metric

INFO = ModelInfo("echo", latent_shape=(2,), num_classes=10, image_shape=(1, 1, 1), buckets=(1, 8), seconds=(0.1, 0.8))
TEXT = ModelInfo("words", kind="sequence", vocab_size=9, max_length=99, slots=2, buckets=(2,), seconds=(0.01,))
BROKEN = ModelInfo("broken", error="config.json: missing")
RUNTIME = {"device": "cpu", "torch": "2"}


class Played:
    """A launch that starts nothing, and the far end of its socket in the hands of the test."""

    def __init__(self, sock, marks):
        sock.setblocking(False)
        self.frames, self.reader, self.sock, self.marks = [], FrameReader(), sock, marks
        self.killed = False

    pid = os.getpid()  # as a thread's: the engine leaves the socket to us

    def wait(self, timeout):
        return 0 if self.sock.fileno() < 0 or self.killed else None

    def kill(self):
        self.killed = True
        self.close()

    def crash(self, *running):
        """End while computing these jobs."""
        self.marks.begin(0, running)
        self.close()

    async def receive(self, *, pings=False):
        """The next frame from the engine; pings only when the test wants to see them."""
        while not self.frames:
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 1 << 20), 10)
            assert data, "the engine has closed the link"
            self.frames += [frame for frame in self.reader.feed(data) if pings or frame.type != "ping"]
        return self.frames.pop(0)

    def send(self, header, *arrays):
        for part in pack(header, arrays):
            self.sock.sendall(part)

    def ready(self, *models):
        self.send({"type": "ready", "models": [dataclasses.asdict(m) for m in models or (INFO,)], "runtime": RUNTIME})

    def chunk(self, number, *tokens, finish=None, refused=None, busy=False):
        """One more piece of a sequence."""
        header = {
            "type": "chunks",
            "model": "words",
            "chunks": [(number, tokens, (), finish, None, refused, busy)],
            "seconds": 0.01,
        }
        self.send(header | {"rows": 1, "prefills": 1, "reused": 0, "waited": [0.0], "busy": 1})

    def batch(self, *parts, seconds=0.1, padding=0):
        """Answer (job, offset, pixels or error) parts; a picture is one pixel."""
        pixels = [p for _, _, got in parts if not isinstance(got, str) for p in got]
        described = [(job, at, 1, got) if isinstance(got, str) else (job, at, len(got), None) for job, at, got in parts]
        header = {"type": "batch", "model": "echo", "parts": described, "waited": [0.0] * len(parts)}
        rows = sum(part[2] for part in described)
        header |= {"rows": rows, "work": rows, "padding": padding, "seconds": seconds}
        self.send(header, np.array(pixels, np.uint8).reshape(-1, 1, 1, 1))

    def close(self):
        self.sock.close()


@dataclasses.dataclass
class Bench:
    engine: Engine
    workers: list[Played]
    failures: list[str]
    telemetry: Telemetry
    known: int = 0

    @property
    def worker(self):
        """The one started last."""
        return self.workers[-1]

    async def next_worker(self, *models):
        """The worker that replaces a lost one, loaded."""
        await eventually(lambda: len(self.workers) > self.known)
        worker = self.workers[self.known]
        self.known += 1
        assert (await worker.receive()).type == "configure"
        worker.ready(*models)
        return worker

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

    async def make(workers=1, max_queue=64, ready=True, models=(), patience=None):
        played, failures, telemetry = [], [], Telemetry()

        def launch(sock, marks):
            played.append(Played(sock, marks))
            return played[-1]

        configs = [WorkerConfig("weights", device=f"cuda:{i}") for i in range(workers)]
        engine = Engine(
            configs,
            max_queue=max_queue,
            telemetry=telemetry,
            on_failure=lambda: failures.append(engine.failure),
            launch=launch,
            patience=patience,
        )
        benches.append(Bench(engine, played, failures, telemetry))
        await engine.start()
        benches[-1].known = workers
        for worker in played:
            configure = await worker.receive()
            assert configure.type == "configure"
            worker.device = configure.header["config"]["device"]
            if ready:
                worker.ready(*models)
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
    numbers = [number for number, *_ in frame.header["jobs"]]
    assert len(set(numbers)) == 3
    assert [len(array) for array in frame.arrays] == [1, 1, 2, 2, 3, 3]
    np.testing.assert_array_equal(frame.arrays[2], job(2).inputs)
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
    numbers = [number for number, *_ in (await bench.worker.receive()).header["jobs"]]
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
        bench.engine.submit(job(5), Terms(client="other"))
    assert caught.value.retry_after > 0
    assert bench.metric("rejected_total", reason="queue_full") == 1
    assert bench.engine.in_flight == 1
    with pytest.raises(Overloaded):
        bench.engine.submit(job(1))  # the last rows are kept for those who have none in flight
    bench.engine.submit(job(4), Terms(client="other"))
    frame = await bench.worker.receive()
    bench.worker.batch((frame.header["jobs"][0][0], 0, list(range(60))))
    await first
    bench.engine.submit(job(50))


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
    assert bench.engine.model("echo", "latents") == INFO, "tuples are tuples again"
    with pytest.raises(ModelNotFound, match="'broken'"):
        bench.engine.model("broken", "latents")
    with pytest.raises(ModelNotFound, match="'other'") as caught:
        bench.engine.model("other", "latents")
    assert caught.value.field == "model"


async def numbers_of(worker):
    """Numbers of the jobs in the next frame that brings some."""
    while (frame := await worker.receive()).type not in ("submit", "sequences"):
        pass
    return [entry[0] for entry in frame.header["jobs"]]


async def test_what_waited_is_computed_by_the_next_worker(make):
    bench = await make()
    future = bench.engine.submit(job(2))
    await numbers_of(bench.worker)
    bench.worker.crash()
    await eventually(lambda: bench.engine.restarting)
    with pytest.raises(NotReady, match="restarted") as caught:
        bench.engine.submit(job())
    assert caught.value.retry_after
    worker = await bench.next_worker()
    (number,) = await numbers_of(worker)
    worker.batch((number, 0, [7, 8]))
    assert (await future).ravel().tolist() == [7, 8]
    assert bench.engine.ready
    assert bench.failures == []
    assert bench.metric("worker_restarts_total", worker="0") == 1
    assert bench.metric("queue_depth") == 0


async def test_what_was_computed_runs_again_one_at_a_time_before_the_rest(make):
    bench = await make()
    futures = [bench.engine.submit(job()) for _ in range(4)]
    numbers = await numbers_of(bench.worker)
    bench.worker.crash(numbers[1], numbers[2])
    worker = await bench.next_worker()
    for suspect in (numbers[1], numbers[2]):
        assert await numbers_of(worker) == [suspect]
        assert worker.frames == []
        assert not bench.engine.ready, "suspects are alone"
        worker.batch((suspect, 0, [suspect]))
    assert await numbers_of(worker) == [numbers[0], numbers[3]]
    assert bench.engine.ready
    worker.batch((numbers[0], 0, [numbers[0]]), (numbers[3], 0, [numbers[3]]))
    assert [f.ravel().tolist() for f in await asyncio.gather(*futures)] == [[number] for number in numbers]


async def test_only_the_job_that_ends_a_worker_alone_is_refused_and_remembered(make):
    bench = await make()
    good = bench.engine.submit(job(), Terms(origin=lambda: b"good"))
    bad = bench.engine.submit(job(), Terms(origin=lambda: b"bad"))
    numbers = await numbers_of(bench.worker)
    bench.worker.crash(*numbers)
    worker = await bench.next_worker()
    assert await numbers_of(worker) == numbers[:1]
    worker.batch((numbers[0], 0, [1]))
    assert (await good).ravel().tolist() == [1]
    assert await numbers_of(worker) == numbers[1:]
    worker.crash(numbers[1])
    with pytest.raises(KillsWorker):
        await bad
    worker = await bench.next_worker()
    await eventually(lambda: bench.engine.ready)
    with pytest.raises(KillsWorker):
        bench.engine.submit(job(), Terms(origin=lambda: b"bad"))
    assert bench.metric("rejected_total", reason="kills_worker") == 1
    assert await _echo(bench) == [5]


async def test_a_suspect_whose_client_leaves_makes_way_for_the_next(make):
    bench = await make()
    futures = [bench.engine.submit(job()) for _ in range(2)]
    numbers = await numbers_of(bench.worker)
    bench.worker.crash(*numbers)
    worker = await bench.next_worker()
    assert await numbers_of(worker) == numbers[:1]
    futures[0].cancel()
    assert await numbers_of(worker) == numbers[1:]
    worker.batch((numbers[1], 0, [1]))
    await futures[1]
    await eventually(lambda: bench.engine.ready)


async def test_a_job_that_departed_while_it_hung_is_still_found_guilty(make):
    bench = await make()
    bad = bench.engine.submit(job(), Terms(origin=lambda: b"bad"))
    good = bench.engine.submit(job(), Terms(origin=lambda: b"good"))
    numbers = await numbers_of(bench.worker)
    bench.worker.crash(*numbers)
    worker = await bench.next_worker()
    assert await numbers_of(worker) == numbers[:1]
    bad.cancel()
    assert await numbers_of(worker) == numbers[1:]
    worker.crash(numbers[0])
    worker = await bench.next_worker()
    (number,) = await numbers_of(worker)
    worker.batch((number, 0, [3]))
    assert (await good).ravel().tolist() == [3]
    with pytest.raises(KillsWorker):
        bench.engine.submit(job(), Terms(origin=lambda: b"bad"))


async def test_the_other_worker_takes_what_waited(make):
    bench = await make(workers=2)
    futures = [bench.engine.submit(job()) for _ in range(6)]
    first, second = bench.workers
    held = await numbers_of(first)
    others = await numbers_of(second)
    first.crash(held[0])
    assert await numbers_of(second) == held[1:]
    assert bench.engine.ready, "one still serves"
    new = bench.engine.submit(job())
    (number,) = await numbers_of(second)
    second.batch(*((n, 0, [n]) for n in [*others, *held[1:], number]))
    await new
    worker = await bench.next_worker()
    assert await numbers_of(worker) == held[:1]
    worker.batch((held[0], 0, [9]))
    await asyncio.gather(*futures)
    assert bench.engine.in_flight == 0


async def test_crash_after_crash_ends_it(make, monkeypatch):
    monkeypatch.setattr(keeper, "FIRST_PAUSE", 0.001)
    bench = await make(patience=Patience(restarts=2))
    future = bench.engine.submit(job())
    for _ in range(2):
        bench.worker.crash()
        await bench.next_worker()
        await eventually(lambda: bench.engine.ready)
    bench.worker.crash()
    with pytest.raises(WorkerDied, match="3 crashes in a row"):
        await future
    assert len(bench.failures) == 1
    assert not bench.engine.ready
    with pytest.raises(WorkerDied):
        bench.engine.submit(job())
    assert bench.metric("queue_depth") == 0


async def test_a_worker_that_is_lost_for_good_leaves_the_others_alone(make):
    bench = await make(workers=2, patience=Patience(restarts=0))
    futures = [bench.engine.submit(job()) for _ in range(2)]
    first, second = bench.workers
    (number,) = await numbers_of(second)
    (held,) = await numbers_of(first)
    first.crash(held)
    with pytest.raises(WorkerDied):
        await futures[0]
    second.batch((number, 0, [1]))
    await futures[1]
    assert bench.engine.ready
    assert bench.failures == []
    second.crash()
    await eventually(lambda: bench.failures)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_worker_that_talks_nonsense_is_replaced(make, caplog):
    bench = await make()
    future = bench.engine.submit(job())
    bench.worker.sock.sendall(b"\xff" * 64)
    worker = await bench.next_worker()
    (number,) = await numbers_of(worker)
    worker.batch((number, 0, [2]))
    assert (await future).ravel().tolist() == [2]


async def test_a_silent_worker_is_replaced(make):
    bench = await make(patience=Patience(silence=0.2), models=(dataclasses.replace(INFO, seconds=(0.001, 0.001)),))
    hung = bench.worker
    worker = await bench.next_worker()
    assert hung.killed
    assert worker is not hung


async def test_a_worker_that_answers_but_hangs_in_a_batch_is_replaced(make):
    bench = await make(patience=Patience(silence=0.2), models=(dataclasses.replace(INFO, seconds=(0.001, 0.001)),))
    hung = bench.worker
    while not hung.killed:
        if hung.sock.fileno() >= 0 and (await hung.receive(pings=True)).type == "ping":
            hung.send({"type": "pong", "id": 0, "oldest": 1.0})
            await eventually(lambda: hung.killed or len(bench.workers) > 1)
    await bench.next_worker() if len(bench.workers) == 1 else None


async def test_deadline_of_pictures(make):
    bench = await make()
    late = bench.engine.submit(job(), Terms(seconds=0.02))
    frame = await bench.worker.receive()
    (number, _, _, deadline), *_ = frame.header["jobs"]
    assert deadline < 1e12, "the worker is told"
    with pytest.raises(DeadlineExceeded, match=r"0\.02 s"):
        await late
    frame = await bench.worker.receive()
    assert (frame.type, frame.header["jobs"]) == ("cancel", [number])
    assert bench.engine.in_flight == 0
    assert bench.metric("expired_total", model="echo") == 1
    assert bench.metric("queue_depth") == 0


async def test_what_would_come_too_late_is_refused_at_once(make):
    bench = await make()
    first = bench.engine.submit(job(50))  # 5 s of work, as measured at warm-up
    with pytest.raises(Overloaded, match=r"5\.10 s") as caught:
        bench.engine.submit(job(1), Terms(seconds=1.0))
    assert caught.value.retry_after == pytest.approx(5.1 - 0.7)
    assert bench.metric("rejected_total", reason="deadline") == 1
    bench.engine.submit(job(1), Terms(seconds=8.0))
    assert not first.done()


async def test_an_idle_worker_is_never_too_slow(make):
    bench = await make()
    bench.engine.submit(job(50), Terms(seconds=0.5))  # whatever was measured once


def words(**fields):
    return SequenceJob("words", (1,), fields.pop("tokens", 4), 0, Sampling(), **fields)


async def collect(stream):
    return [token async for _, chunk in stream for token in chunk.tokens]


async def test_a_whole_text_is_written_again_and_nothing_comes_twice(make):
    bench = await make(models=(TEXT,))
    reading = asyncio.ensure_future(collect(bench.engine.stream([words()], Terms(whole=True))))
    (number,) = await numbers_of(bench.worker)
    bench.worker.chunk(number, 1, 2)
    await settle()
    bench.worker.crash(number)
    worker = await bench.next_worker(TEXT)
    assert await numbers_of(worker) == [number]
    worker.chunk(number, 1)
    worker.chunk(number, 2, 3)
    worker.chunk(number, 4, finish="length")
    assert await reading == [1, 2, 3, 4]
    assert bench.metric("tokens_total", kind="completion") == 4


async def test_a_stream_that_has_begun_gets_an_error_and_one_that_has_not_goes_on(make):
    bench = await make(models=(TEXT,))
    begun = bench.engine.stream([words()], Terms(whole=False))
    fresh = asyncio.ensure_future(collect(bench.engine.stream([words()], Terms(whole=False))))
    numbers = await numbers_of(bench.worker)
    bench.worker.chunk(numbers[0], 1)
    assert (await anext(begun))[1].tokens == (1,)
    bench.worker.crash(*numbers)
    with pytest.raises(WorkerDied, match="while it wrote this"):
        await anext(begun)
    worker = await bench.next_worker(TEXT)
    assert await numbers_of(worker) == numbers[1:]
    worker.chunk(numbers[1], 5, finish="stop")
    assert await fresh == [5]
    assert bench.engine.in_flight == 0


async def test_sequences_on_trial_let_the_next_one_in_once_they_have_come_further(make):
    bench = await make(models=(TEXT,))
    reading = [asyncio.ensure_future(collect(bench.engine.stream([words()]))) for _ in range(2)]
    numbers = []
    while len(numbers) < 2:
        numbers += await numbers_of(bench.worker)
    bench.worker.chunk(numbers[0], 1, 2)
    await settle()
    bench.worker.crash(*numbers)
    worker = await bench.next_worker(TEXT)
    assert await numbers_of(worker) == numbers[:1]
    worker.chunk(numbers[0], 1, 2)
    await settle()
    assert worker.frames == []
    worker.chunk(numbers[0], 3)
    assert await numbers_of(worker) == numbers[1:], "it runs beside the first"
    worker.crash(*numbers)  # who was it? each alone to its end now
    worker = await bench.next_worker(TEXT)
    assert await numbers_of(worker) == numbers[:1]
    worker.chunk(numbers[0], 1, 2, 3, 4, finish="length")
    assert await numbers_of(worker) == numbers[1:]
    worker.crash(numbers[1])
    assert await reading[0] == [1, 2, 3, 4]
    with pytest.raises(KillsWorker):
        await reading[1]


async def test_what_a_sequence_is_told_travels_with_it_to_every_worker(make):
    """As an array, never as text; and the next worker is told the same."""
    bench = await make(models=(TEXT,))
    told = [np.array([1.5, -2.0], np.float32), None, np.array([], np.float32), np.array([0.1], np.float32)]
    jobs = [words(condition=condition) for condition in told]
    reading = asyncio.ensure_future(collect(bench.engine.stream(jobs, Terms(whole=True))))

    async def arrived(worker):
        frame = await worker.receive()
        conditions = iter(frame.arrays)
        grammars = [Grammar(*raw) for raw in frame.header["grammars"]]
        found = {number: _sequence_job(raw, conditions, grammars) for number, raw in frame.header["jobs"]}
        assert next(conditions, None) is None
        return found

    found = await arrived(bench.worker)
    for job, original in zip(found.values(), jobs, strict=True):
        assert dataclasses.replace(job, condition=None, request=0, client="", deadline=1.0) == dataclasses.replace(
            original, condition=None, deadline=1.0
        )
        assert (job.condition is None) == (original.condition is None)
        assert job.condition is None or job.condition.dtype == np.float32
        np.testing.assert_array_equal(job.condition, original.condition)
    bench.worker.crash()
    worker = await bench.next_worker(TEXT)
    for job, original in zip((await arrived(worker)).values(), jobs, strict=True):
        np.testing.assert_array_equal(job.condition, original.condition)
    for number in found:
        worker.chunk(number, 7, finish="stop")
    assert await reading == [7] * 4


async def test_deadline_of_a_stream_is_for_its_first_token(make):
    bench = await make(models=(TEXT,))
    begun = bench.engine.stream([words()], Terms(seconds=0.05, whole=False))
    late = bench.engine.stream([words(), words()], Terms(seconds=0.05, whole=False))
    numbers = []
    while len(numbers) < 3:
        numbers += await numbers_of(bench.worker)
    bench.worker.chunk(numbers[0], 1)
    with pytest.raises(DeadlineExceeded, match="the beginning was not there"):
        await anext(late)
    frame = await bench.worker.receive()
    assert (frame.type, sorted(frame.header["jobs"])) == ("cancel", numbers[1:]), "their slots are free"
    assert bench.engine.in_flight == 1
    await anext(begun)
    bench.worker.chunk(numbers[0], 2, finish="length")
    assert await collect(begun) == [2]


async def test_deadline_of_a_whole_text_is_for_its_end(make):
    bench = await make(models=(TEXT,))
    reading = asyncio.ensure_future(collect(bench.engine.stream([words()], Terms(seconds=0.05))))
    (number,) = await numbers_of(bench.worker)
    bench.worker.chunk(number, 1)
    with pytest.raises(DeadlineExceeded, match="the answer"):
        await reading
    assert bench.engine.in_flight == 0


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


# requests of several stages


def onward(seconds=60.0):
    return Terms(seconds=seconds).onward(asyncio.get_running_loop().time() + seconds)


async def two_stages(engine):
    """The second is begun a turn of the loop after the first was done."""
    with engine.held():
        first = await engine.submit(job())
        await asyncio.sleep(0)
        return first, await engine.submit(job(), onward())


async def test_a_drain_waits_for_all_stages_of_a_request(make):
    bench = await make()
    request = asyncio.ensure_future(two_stages(bench.engine))
    (number,) = await numbers_of(bench.worker)
    drain = asyncio.ensure_future(bench.engine.drain(60))
    await asyncio.sleep(0)
    with pytest.raises(Draining):
        bench.engine.submit(job())
    bench.worker.batch((number, 0, [1]))
    (number,) = await numbers_of(bench.worker)
    assert not drain.done()
    bench.worker.batch((number, 0, [2]))
    assert [rows.item() for rows in await request] == [1, 2]
    assert await drain is True


async def test_what_is_between_two_stages_ends_with_the_engine(make):
    bench = await make()
    with bench.engine.held():
        assert await bench.engine.drain(0.01) is False
        with pytest.raises(Draining):
            bench.engine.submit(job(), onward())


async def test_a_further_stage_waits_for_the_worker_that_comes_back(make):
    """Also while a suspect is on trial: two requests were computed together when the worker ended."""
    bench = await make()
    requests = [asyncio.ensure_future(two_stages(bench.engine)) for _ in range(2)]
    numbers = await numbers_of(bench.worker)
    bench.worker.crash(*numbers)
    worker = await bench.next_worker()
    for number in numbers:
        assert await numbers_of(worker) == [number], "one after the other, and none of the further stages"
        assert not bench.engine.ready
        worker.batch((number, 0, [number]))
    further = await numbers_of(worker)
    assert len(further) == 1, "the first one's waited; the second one's was not asked for yet"
    further += await numbers_of(worker)
    worker.batch(*((number, 0, [9]) for number in further))
    assert [[rows.item() for rows in stages] for stages in await asyncio.gather(*requests)] == [[n, 9] for n in numbers]


@pytest.mark.parametrize(("busy", "error"), [(False, InvalidField), (True, Overloaded)])
async def test_a_grammar_without_room_is_told_from_a_wrong_one(make, busy, error):
    bench = await make(models=(TEXT,))
    stream = bench.engine.stream([words()])
    (number,) = await numbers_of(bench.worker)
    bench.worker.chunk(number, refused="a reason", busy=busy)
    with pytest.raises(error, match="a reason"):
        await anext(stream)
    await settle()
    assert bench.engine.in_flight == 0


async def test_a_further_stage_is_never_refused_for_room_or_time(make):
    bench = await make(max_queue=2, models=(INFO, TEXT))
    first = bench.engine.submit(job(2))
    with pytest.raises(Overloaded):
        bench.engine.submit(job())
    second = bench.engine.submit(job(64), onward(1.0))
    stream = bench.engine.stream([words()], onward(1.0))
    numbers = [*await numbers_of(bench.worker), *await numbers_of(bench.worker)]
    assert len(numbers) == 3
    for future in (first, second):
        future.cancel()
    stream.close()


async def test_a_lost_engine_takes_no_further_stage(make):
    bench = await make(patience=Patience(restarts=0))
    bench.worker.crash()
    await eventually(lambda: bench.failures)
    with pytest.raises(WorkerDied):
        bench.engine.submit(job(), onward())


async def test_sequences_of_a_stream_have_no_deadline_of_their_own(make):
    """A request holds some of the slots: its other sequences begin when the first are done, however late that is."""
    bench = await make(models=(TEXT,))
    streamed = bench.engine.stream([words(), words()], Terms(seconds=5.0, whole=False))
    whole = bench.engine.stream([words()], Terms(seconds=5.0, whole=True))
    jobs = (await bench.worker.receive()).header["jobs"]
    assert [raw["deadline"] < float("inf") for _, raw in jobs] == [False, False, True]
    streamed.close()
    whole.close()


async def test_sequences_of_one_chunk_teach_no_pace(make):
    """How long they held their slot is not known; that it was no time at all is wrong."""
    bench = await make(models=(TEXT,))
    text = bench.engine._lanes[0].admission._texts["words"]
    for _ in range(20):
        reading = asyncio.ensure_future(collect(bench.engine.stream([words(tokens=1)])))
        (number,) = await numbers_of(bench.worker)
        bench.worker.chunk(number, 7, finish="length")
        assert await reading == [7]
    assert text.pace == 0.01


@pytest.mark.parametrize("grammar", [None, Grammar("regex", "x" * 60_000), Grammar("json_object")])
async def test_what_choices_share_travels_once(make, grammar):
    """64 choices under one grammar are one frame, not 64 copies of it."""
    bench = await make(models=(TEXT,))
    jobs = [
        words(grammar=grammar),
        *(words(grammar=Grammar("regex", "[ab]")) for _ in range(2)),
        words(grammar=grammar),
    ]
    stream = bench.engine.stream(jobs)
    frame = await bench.worker.receive()
    grammars = [Grammar(*raw) for raw in frame.header["grammars"]]
    assert len(grammars) == len({job.grammar for job in jobs} - {None})
    found = [_sequence_job(raw, iter(()), grammars).grammar for _, raw in frame.header["jobs"]]
    assert found == [job.grammar for job in jobs]
    stream.close()


async def test_much_that_is_sent_in_one_turn_is_several_frames(make, monkeypatch):
    """However its bytes are spread: prompts, biases, grammars. Nothing that others wait for is lost."""
    monkeypatch.setattr(lane, "FRAME_BYTES", 50_000)
    bench = await make(models=(INFO, TEXT))
    biased = Sampling(bias=tuple((token, 0.5) for token in range(300)))
    jobs = [words(grammar=Grammar("regex", f"{i}" * 9_000)) for i in range(3)]
    jobs += [dataclasses.replace(words(), sampling=biased) for _ in range(20)]
    jobs += [dataclasses.replace(words(), prompt=(7,) * 5_000) for _ in range(3)]
    streams = [bench.engine.stream([one]) for one in jobs]
    frames = []
    while sum(len(frame.header["jobs"]) for frame in frames) < len(jobs):
        frames.append(await bench.worker.receive())
    assert len(frames) > 3
    assert all(len(pack(frame.header)[0]) < 100_000 for frame in frames)
    for stream in streams:
        stream.close()


async def test_a_job_that_no_frame_can_carry_fails_alone(make, monkeypatch):
    monkeypatch.setattr(link, "MAX_HEADER", 10_000)
    monkeypatch.setattr(lane, "FRAME_BYTES", 1)
    bench = await make(models=(INFO, TEXT))
    left = bench.engine.submit(job())
    assert await numbers_of(bench.worker)
    left.cancel()
    large = asyncio.ensure_future(collect(bench.engine.stream([dataclasses.replace(words(), prompt=(7,) * 20_000)])))
    await asyncio.sleep(0)
    good = bench.engine.submit(job())
    with pytest.raises(ComputeFailed, match="too large to be sent"):
        await large
    frame = await bench.worker.receive()
    assert (frame.type, len(frame.header["jobs"])) == ("cancel", 1), "of the same turn, and not lost"
    (number,) = await numbers_of(bench.worker)
    bench.worker.batch((number, 0, [3]))
    assert (await good).item() == 3


async def test_what_waits_for_a_worker_goes_to_the_first_that_comes_back(make):
    """Both are down when it comes; the other one's jobs do not wait for theirs."""
    bench = await make(workers=2)
    futures = [bench.engine.submit(job()) for _ in range(2)]
    first, second = bench.workers
    held = [*await numbers_of(first), *await numbers_of(second)]
    first.crash()
    second.crash()
    await eventually(lambda: len(bench.workers) >= 4)
    back = bench.workers[-1]
    back.ready()
    assert sorted(await numbers_of(back)) == sorted(held)
    back.batch(*((number, 0, [number]) for number in held))
    assert sorted(rows.item() for rows in await asyncio.gather(*futures)) == sorted(held)
