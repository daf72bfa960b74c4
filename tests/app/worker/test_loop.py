"""The worker's loop over a real socket pair, its lanes made of fake models."""

import contextlib
import dataclasses
import math
import socket
import threading

import numpy as np
import pytest
import torch

from app.engine.jobs import SequenceJob, WorkerConfig
from app.engine.link import FrameReader, pack
from app.engine.marks import Marks
from app.worker.dynamic import BESIDE_SECONDS
from app.worker.faults import UNUSABLE
from app.worker.loop import WorkerLoop
from app.worker.runner import LatentRunner
from app.worker.thread import WorkerThread
from tests import fake_sequences, fakes
from tests.serving import wait_until

BESIDE_ROWS = 8  # that a second batch pays for, at the costs of `even_costs`


class Peer:
    """The HTTP side, played by the test."""

    def __init__(self, sock):
        self.sock, self.reader, self.frames = sock, FrameReader(), []
        sock.settimeout(60)

    def send(self, header, *arrays):
        self.sock.sendall(b"".join(pack(header, arrays)))  # many small writes fill a socket that nobody reads

    def receive(self):
        while not self.frames:
            data = self.sock.recv(1 << 20)
            assert data, "the worker has closed the link"
            self.frames += self.reader.feed(data)
        return self.frames.pop(0)

    def submit(self, *jobs):
        """Jobs of (number, model, latents)."""
        arrays = [a for _, _, z in jobs for a in (z, np.zeros(len(z), np.int64))]
        self.send({"type": "submit", "jobs": [(number, model, "", math.inf) for number, model, _ in jobs]}, *arrays)

    def write(self, number, prompt, max_tokens):
        """A sequence for the model "text", its prompt given as letters."""
        job = SequenceJob("text", tuple(map(ord, prompt)), max_tokens, seed=1)
        self.send(fake_sequences.frame_of(number, job))

    def ping(self, number):
        self.send({"type": "ping", "id": number})

    def cancel(self, *numbers):
        self.send({"type": "cancel", "jobs": list(numbers)})

    def configure(self, weights, threads):
        config = WorkerConfig(str(weights), device="cpu", dtype="fp32", threads=threads, max_slots=2)
        self.send({"type": "configure", "config": dataclasses.asdict(config)})
        self.info = self.receive()
        return self

    @property
    def followers(self):
        """The worker's threads besides its first."""
        return [thread for thread in threading.enumerate() if thread.name[:8] == "compute-" and thread not in self.old]


@pytest.fixture(autouse=True)
def even_costs(monkeypatch):
    """Every batch size costs the same, so that no measurement decides what makes a batch: all that waits, or half."""
    seconds = 1.01 * BESIDE_SECONDS * 64 / BESIDE_ROWS  # of a batch of 64 rows
    monkeypatch.setattr(LatentRunner, "_measure", lambda self, latents, labels: seconds)


@pytest.fixture
def peer():
    ours, theirs = socket.socketpair()
    with ours:
        peer = Peer(ours)
        peer.old, peer.marks = threading.enumerate(), Marks.create()
        peer.worker = WorkerThread(theirs, peer.marks)
        yield peer
        peer.marks.close()
    assert peer.worker.wait(60) is not None, "the loop ends with its link"
    assert not peer.followers, "and so do all of its threads"


@pytest.fixture
def ready(peer, weights):
    """A worker with one compute thread: while it is held, everything else waits."""
    fakes.write(weights, "other")
    return peer.configure(weights, threads=1)


@pytest.fixture
def two(peer, weights, gate):
    """A worker with two compute threads, and a model of text."""
    fakes.write(weights, "other", gate=str(gate.with_name("other-gate")))
    fake_sequences.write(weights, "text", "counting", gate=str(gate.with_name("text-gate")), eos=None)
    return peer.configure(weights, threads=2)


@pytest.fixture
def own_gate(gate):
    """`own_gate(name)`: the gate of another model, closed."""
    with contextlib.ExitStack() as stack:

        def close(name):
            path = gate.with_name(f"{name}-gate")
            path.touch()
            stack.callback(path.unlink, missing_ok=True)
            return path

        yield close


def hold(peer, gate):
    """Have a thread of the worker compute until the gate is gone; with one thread, what is sent now waits together."""
    peer.submit((1, "echo", z(fakes.GATE)))
    wait_until(fakes.held(gate).exists, "the worker does not reach the gate")


def release(peer, gate):
    gate.unlink()
    assert peer.receive().header["parts"] == [[1, 0, 1, None]]


def z(*first):
    return np.array([[value, 0, 0, 0] for value in first], np.float32)


def test_ready_frame_describes_models_and_runtime(ready):
    assert ready.info.type == "ready"
    assert [model["name"] for model in ready.info.header["models"]] == ["echo", "other"]
    assert ready.info.header["runtime"]["torch"] == torch.__version__


def test_jobs_in_batches_out(ready):
    ready.submit((1, "echo", z(0.1, 0.2)), (2, "echo", z(0.3)))
    batch = ready.receive()
    assert batch.type == "batch"
    assert batch.header["model"] == "echo"
    assert batch.header["rows"] == 3
    assert batch.header["parts"] == [[1, 0, 2, None], [2, 0, 1, None]]
    np.testing.assert_array_equal(batch.arrays[0], fakes.echo(z(0.1, 0.2, 0.3), np.zeros(3, np.int64)))


def test_lanes_alternate(ready, gate):
    hold(ready, gate)
    ready.submit((2, "echo", np.tile(z(fakes.NAP), (64, 1))), (3, "other", np.tile(z(fakes.NAP), (64, 1))))
    release(ready, gate)
    models = [ready.receive().header["model"] for _ in range(5)]
    assert models.count("other") >= 2, "the lane that held the device has had its share"


def test_cancelled_rows_are_not_computed(ready, gate):
    hold(ready, gate)
    ready.submit((2, "echo", z(0.1, 0.2)), (3, "other", z(0.1)))
    ready.cancel(2, 3, 99)
    ready.submit((4, "echo", z(0.3)))
    release(ready, gate)
    assert ready.receive().header["parts"] == [[4, 0, 1, None]]


def test_a_lane_whose_last_rows_vanish_is_not_ticked(ready):
    """Submission and cancellation in one write: nothing comes back, and the loop goes on."""
    ready.cancel()
    parts = pack({"type": "submit", "jobs": [(1, "echo", "", math.inf)]}, [z(0.1), np.zeros(1, np.int64)])
    ready.sock.sendall(b"".join(map(bytes, [*parts, *pack({"type": "cancel", "jobs": [1]})])))
    ready.submit((2, "echo", z(0.2)))
    assert ready.receive().header["parts"] == [[2, 0, 1, None]]


def test_a_poisoned_row_fails_alone(ready, gate):
    hold(ready, gate)
    ready.submit(*((n, "echo", z(fakes.RAISE if n == 4 else 0.1)) for n in range(2, 9)))
    release(ready, gate)
    errors = {part[0]: part[3] for part in ready.receive().header["parts"]}
    assert errors == {n: "the model raised ValueError" if n == 4 else None for n in range(2, 9)}


def test_a_broken_start_is_told(peer, weights):
    (weights / "echo" / "model.safetensors").unlink()
    peer.configure(weights, threads=2)
    assert peer.info.type == "failed"
    assert "model.safetensors: missing" in peer.info.header["error"]
    assert peer.worker.wait(60) == 1


def test_the_first_grammar_is_compiled_ahead_in_a_thread_that_ends_with_the_loop(peer, two):
    def compiling():
        return [thread for thread in threading.enumerate() if "grammars" in thread.name and thread not in peer.old]

    wait_until(compiling, "no grammar is compiled")
    peer.sock.close()
    assert peer.worker.wait(60) == 0
    wait_until(lambda: not compiling(), "the thread does not end")


def test_closing_before_the_configuration(peer):
    peer.sock.close()
    assert peer.worker.wait(60) == 0


def test_closing_ends_the_loop(ready):
    assert ready.worker.wait(0) is None
    ready.worker.kill()  # can't be done to a thread, and does no harm
    ready.sock.close()
    assert ready.worker.wait(60) == 0


def test_closing_during_a_batch_ends_the_loop(ready, gate):
    hold(ready, gate)
    ready.submit((2, "echo", z(0.1)))
    ready.sock.close()
    gate.unlink()
    assert ready.worker.wait(60) == 0


# one thread


def test_one_thread_computes_one_batch_at_a_time(ready, gate):
    """However much waits, and whatever for."""
    hold(ready, gate)
    ready.submit((2, "other", z(*[0.1] * BESIDE_ROWS)), (3, "echo", z(*[0.1] * BESIDE_ROWS)))
    gate.unlink()
    assert [ready.receive().header["parts"][0][0] for _ in range(3)] == [1, 2, 3], "the one that was held comes first"


def test_one_thread_is_one_thread(ready, gate):
    hold(ready, gate)
    assert not ready.followers


# two threads


def test_a_held_batch_does_not_hold_up_another_lane(two, gate):
    """Not even one row."""
    hold(two, gate)
    assert len(two.followers) == 1
    two.submit((2, "other", z(0.1)))
    batch = two.receive()
    assert (batch.header["model"], batch.header["parts"]) == ("other", [[2, 0, 1, None]])
    np.testing.assert_array_equal(batch.arrays[0], fakes.echo(z(0.1), np.zeros(1, np.int64)))
    release(two, gate)


def test_a_held_batch_does_not_hold_up_8_rows_of_its_own_lane(two, gate):
    """Fewer wait for it: they would make a poor batch, and the other thread is free for other lanes."""
    hold(two, gate)
    two.submit((2, "echo", z(*[0.1] * (BESIDE_ROWS - 1))))
    two.submit((3, "other", z(0.2)))
    assert two.receive().header["parts"] == [[3, 0, 1, None]]
    two.submit((4, "echo", z(0.3)))
    parts = [[2, 0, BESIDE_ROWS - 1, None], [4, 0, 1, None]]
    assert two.receive().header["parts"] == parts, "nothing was computed before the eighth row came"
    release(two, gate)


def test_few_rows_are_computed_when_the_held_batch_is_over(two, gate):
    hold(two, gate)
    two.submit((2, "echo", z(0.1, 0.2)))
    release(two, gate)
    assert two.receive().header["parts"] == [[2, 0, 2, None]]


def test_what_comes_while_all_threads_compute_is_taken_in_together(two, gate, own_gate):
    """Cancellations among it."""
    other = own_gate("other")
    hold(two, gate)
    two.submit((2, "other", z(fakes.GATE)))
    wait_until(fakes.held(other).exists, "the second thread does not reach its gate")
    two.submit((3, "echo", z(0.1)), (4, "other", z(0.1)))
    two.cancel(3)
    two.submit((5, "echo", z(0.2)))
    other.unlink()
    assert two.receive().header["parts"] == [[2, 0, 1, None]]
    assert two.receive().type == "slots", "the cancellation, which concerns text as well"
    assert two.receive().header["parts"] == [[4, 0, 1, None]]
    release(two, gate)
    assert two.receive().header["parts"] == [[5, 0, 1, None]]


def test_every_row_is_its_own_whatever_runs_beside_it(two):
    """Thousands of rows in dozens of batches of two lanes."""
    rng = np.random.default_rng(0)
    sent = {n: rng.uniform(-1, 1, (1 + n % 64, fakes.LATENT_DIM)).astype(np.float32) for n in range(1, 101)}
    owed = {n: dict(enumerate(fakes.echo(rows, np.zeros(len(rows), np.int64)))) for n, rows in sent.items()}
    for n, rows in sent.items():
        two.submit((n, "echo" if n % 3 else "other", rows))
    while any(owed.values()):
        batch = two.receive()
        start = 0
        for number, offset, count, error in batch.header["parts"]:
            assert error is None
            assert batch.header["model"] == ("echo" if number % 3 else "other")
            for row in range(count):
                np.testing.assert_array_equal(batch.arrays[0][start + row], owed[number].pop(offset + row))
            start += count


def test_text_that_ticks_hears_of_cancellations_and_new_sequences_afterwards(two, own_gate):
    """They are read while it ticks, end the tick early and are heeded before the next one."""
    gate = own_gate("text")
    two.write(1, fake_sequences.GATE, 20)
    first = two.receive()
    assert [chunk[0] for chunk in first.header["chunks"]] == [1], "the prompt was read"
    wait_until(fakes.held(gate).exists, "the step does not reach the gate")
    two.cancel(1)
    two.write(2, "a", 3)
    two.submit((3, "echo", z(0.1)))
    assert two.receive().header["parts"] == [[3, 0, 1, None]], "everything before it was read as well"
    gate.unlink()
    tick, slots = two.receive(), two.receive()
    assert [(number, len(tokens)) for number, tokens, *_ in tick.header["chunks"]] == [(1, 1)], "one step, and no more"
    assert (slots.type, slots.header["model"], slots.header["busy"]) == ("slots", "text", 0)
    tokens, finish = [], None
    while finish is None:
        ((number, new, _, finish, error, *_),) = two.receive().header["chunks"]
        assert (number, error) == (2, None), "nothing follows of what was cancelled"
        tokens += new
    assert (bytes(tokens), finish) == (b"bcd", "length")


def test_a_tick_of_text_does_not_hold_up_pictures(two, own_gate):
    gate = own_gate("text")
    two.write(1, fake_sequences.GATE, 2)
    assert two.receive().type == "chunks"
    wait_until(fakes.held(gate).exists, "the step does not reach the gate")
    for number in range(2, 6):
        two.submit((number, "echo", z(0.1)))
        assert two.receive().header["parts"] == [[number, 0, 1, None]]
    gate.unlink()
    ((number, _, _, finish, *_),) = two.receive().header["chunks"]
    assert (number, finish) == (1, "length")


# being watched


def test_an_idle_worker_answers_a_ping(ready):
    ready.ping(7)
    pong = ready.receive()
    assert (pong.type, pong.header["id"], pong.header["oldest"]) == ("pong", 7, 0.0)


def test_a_ping_beside_a_batch_tells_how_long_that_runs(two, gate):
    hold(two, gate)
    ages = []
    for number in range(3):
        two.ping(number)
        pong = two.receive()
        assert (pong.type, pong.header["id"]) == ("pong", number)
        ages.append(pong.header["oldest"])
    assert 0 < ages[0] < ages[1] < ages[2] < 600
    release(two, gate)
    two.ping(9)
    assert two.receive().header["oldest"] == 0.0


def test_a_ping_is_answered_as_soon_as_any_batch_is_over(ready, gate):
    """However much waits: nothing is begun before what the socket holds is read."""
    hold(ready, gate)
    ready.submit((2, "echo", np.tile(z(0.1), (640, 1))))
    ready.ping(1)
    ready.submit((3, "other", z(0.1)))
    release(ready, gate)
    assert ready.receive().type == "pong"


def test_text_that_ticks_on_the_only_thread_notices_a_ping(peer, weights, gate, own_gate):
    fake_sequences.write(weights, "text", "counting", gate=str(gate.with_name("text-gate")), eos=None)
    peer.configure(weights, threads=1)
    own = own_gate("text")
    peer.write(1, fake_sequences.GATE, 30)
    assert peer.receive().type == "chunks"
    wait_until(fakes.held(own).exists, "the step does not reach the gate")
    peer.ping(5)
    own.unlink()
    tick, pong = peer.receive(), peer.receive()
    assert [len(tokens) for _, tokens, *_ in tick.header["chunks"]] == [1], "it ended with the step that it was in"
    assert (pong.type, pong.header["id"], pong.header["oldest"]) == ("pong", 5, 0.0)


def test_what_is_computed_is_marked_until_it_is_done(two, gate, own_gate):
    other = own_gate("other")
    hold(two, gate)
    two.submit((2, "other", z(fakes.GATE)), (3, "other", z(0.1)))
    wait_until(fakes.held(other).exists, "the second thread does not reach its gate")
    two.submit((4, "other", z(0.1)), (5, "echo", z(0.1)))
    assert two.marks.running() == {1, 2, 3}, "not those that merely wait"
    other.unlink()
    numbers = [part[0] for _ in range(2) for part in two.receive().header["parts"]]
    assert numbers == [2, 3, 4]
    wait_until(lambda: two.marks.running() == {1}, "what is done is still marked")
    release(two, gate)
    assert two.receive().header["parts"][0][0] == 5
    wait_until(lambda: not two.marks.running(), "what is done is still marked")


def test_a_prompt_that_is_read_is_marked_and_one_that_waits_is_not(two, own_gate):
    gate = own_gate("text")
    two.write(1, "a", 60)
    assert two.receive().type == "chunks"
    two.write(2, fake_sequences.GATE_PREFILL, 5)
    two.write(3, "b", 5)
    wait_until(fakes.held(gate).exists, "the prefill does not reach the gate")
    assert two.marks.running() == {1, 2}
    gate.unlink()


def test_a_worker_without_marks(weights, gate):
    ours, theirs = socket.socketpair()
    with ours:
        peer = Peer(ours)
        worker = WorkerThread(theirs)
        peer.configure(weights, threads=1)
        peer.submit((1, "echo", z(0.1)))
        assert peer.receive().header["parts"] == [[1, 0, 1, None]]
    assert worker.wait(60) == 0


# fairness, deadlines, memory


def test_a_client_is_served_in_its_turn(ready, gate):
    hold(ready, gate)
    many = [(number, "echo", "many", math.inf) for number in range(2, 42)]
    jobs = [*many, (50, "echo", "one", math.inf)]
    ready.send({"type": "submit", "jobs": jobs}, *[a for _ in jobs for a in (z(0.1), np.zeros(1, np.int64))])
    release(ready, gate)
    assert 50 in {part[0] for part in ready.receive().header["parts"]}


def test_what_has_expired_is_dropped_silently(ready, gate):
    fields = [(2, "echo", "", 0.0), (3, "other", "", 0.0), (4, "echo", "", math.inf)]
    hold(ready, gate)
    ready.send({"type": "submit", "jobs": fields}, *[a for _ in fields for a in (z(0.1), np.zeros(1, np.int64))])
    release(ready, gate)
    assert ready.receive().header["parts"] == [[4, 0, 1, None]]
    ready.ping(1)
    assert ready.receive().type == "pong"


def test_sequences_expire_too(two):
    expired = SequenceJob("text", (97,), 3, seed=1, client="c", deadline=0.0)
    two.send(fake_sequences.frame_of(1, expired))
    two.write(2, "b", 1)
    assert [chunk[0] for chunk in two.receive().header["chunks"]] == [2]


def test_a_batch_that_runs_out_of_memory_lowers_the_limit_and_says_so(ready, gate, caplog):
    hold(ready, gate)
    ready.submit(*((number, "echo", z(fakes.SHORT_OF_MEMORY if number == 5 else 0.1)) for number in range(2, 10)))
    release(ready, gate)
    batch, limit = ready.receive(), ready.receive()
    assert [part[3] for part in batch.header["parts"]] == [None] * 8
    assert limit.type == "limit"
    assert (limit.header["model"], limit.header["rows"]) == ("echo", fakes.FITS)
    assert "echo ran out of memory; its batches hold 2 rows at most" in caplog.text
    ready.submit((20, "echo", z(*[0.1] * 5)))
    assert [ready.receive().header["rows"] for _ in range(3)] == [2, 2, 1], "and it is no news again"


# a lost device


@pytest.mark.parametrize("threads", [1, 2])
def test_a_lost_device_ends_the_loop_and_leaves_the_marks(peer, weights, threads, caplog):
    """In a thread of somebody's process: nothing more is ended than the loop."""
    peer.configure(weights, threads)
    peer.submit((1, "echo", z(0.1)), (2, "echo", z(fakes.LOST)))
    assert peer.sock.recv(1) == b""
    assert peer.worker.wait(60) == UNUSABLE
    assert peer.marks.running() == {1, 2}
    assert "the device is unusable" in caplog.text
    assert "device-side assert" in caplog.text


def test_text_may_lose_the_device_as_well(two):
    two.write(1, fake_sequences.LOST, 40)
    while data := two.sock.recv(1 << 20):
        assert all(frame.type == "chunks" for frame in two.reader.feed(data))
    assert two.worker.wait(60) == UNUSABLE
    assert two.marks.running() == {1}


def test_a_lost_device_ends_the_process_at_once_from_any_thread(weights, gate):
    """The other thread hangs, and is not waited for."""
    ours, theirs = socket.socketpair()
    aborted = threading.Event()
    statuses = []

    def abort(status):
        statuses.append(status)
        aborted.set()

    with ours:
        loop = WorkerLoop(theirs, abort=abort)
        thread = threading.Thread(target=loop.run)
        thread.start()
        peer = Peer(ours)
        fakes.write(weights, "other")
        peer.configure(weights, threads=2)
        hold(peer, gate)
        peer.submit((2, "other", z(fakes.LOST)))
        assert aborted.wait(60)
        assert thread.is_alive()
    gate.unlink()
    thread.join(60)
    assert statuses == [UNUSABLE]


def test_a_device_that_is_lost_while_models_are_loaded(peer, weights, monkeypatch):
    def lose(self, latents, labels):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(fakes.EchoLatents, "decode", lose)
    peer.configure(weights, threads=1)
    assert peer.info.type == "failed"
    assert "the device is unusable" in peer.info.header["error"]
    assert "illegal memory access" in peer.info.header["error"]
    assert peer.worker.wait(60) == UNUSABLE


# bugs


BUGS = {
    "reading": [{"type": "cancel"}],
    "a model that nobody serves": [
        {"type": "submit", "jobs": [(9, "nobody", "", math.inf)]},
        *(z(0.1), np.zeros(1, np.int64)),
    ],
    "computing": [  # latents of two shapes, which the HTTP side would never send
        {"type": "submit", "jobs": [(8, "other", "", math.inf), (9, "other", "", math.inf)]},
        *(z(0.1), np.zeros(1, np.int64), np.zeros((1, 5), np.float32), np.zeros(1, np.int64)),
    ],
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_ends_the_loop_and_all_threads(two, gate, bug, caplog):
    """Even while another thread computes, as soon as that is done."""
    hold(two, gate)
    two.send(*BUGS[bug])
    assert two.sock.recv(1) == b"", "the link is closed"
    gate.unlink()
    assert two.worker.wait(60) == 1
    assert not two.followers
    assert "the worker's loop failed" in caplog.text


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_ends_the_only_thread(ready, bug):
    ready.send(*BUGS[bug])
    assert ready.sock.recv(1) == b""
    assert ready.worker.wait(60) == 1


@pytest.mark.parametrize("moment", ["idle", "during a batch"])
def test_closing_ends_both_threads(two, gate, moment):
    if moment == "during a batch":
        hold(two, gate)
        two.submit((2, "echo", z(0.1)))
    else:
        two.submit((1, "echo", z(0.1)))
        two.receive()
    assert len(two.followers) == 1
    two.sock.close()
    gate.unlink()
    assert two.worker.wait(60) == 0
    assert not two.followers
