"""The worker's loop over a real socket pair, its lanes made of fake models."""

import dataclasses
import socket

import numpy as np
import pytest
import torch

from app.engine.jobs import WorkerConfig
from app.engine.link import FrameReader, pack
from app.worker.thread import WorkerThread
from tests import fakes
from tests.serving import wait_until


class Peer:
    """The HTTP side, played by the test."""

    def __init__(self, sock):
        self.sock, self.reader, self.frames = sock, FrameReader(), []
        sock.settimeout(60)

    def send(self, header, *arrays):
        for part in pack(header, arrays):
            self.sock.sendall(part)

    def receive(self):
        while not self.frames:
            data = self.sock.recv(1 << 20)
            assert data, "the worker has closed the link"
            self.frames += self.reader.feed(data)
        return self.frames.pop(0)

    def submit(self, *jobs):
        """Jobs of (number, model, latents)."""
        arrays = [a for _, _, z in jobs for a in (z, np.zeros(len(z), np.int64))]
        self.send({"type": "submit", "jobs": [(number, model) for number, model, _ in jobs]}, *arrays)


@pytest.fixture
def peer():
    ours, theirs = socket.socketpair()
    with ours:
        peer = Peer(ours)
        peer.worker = WorkerThread(theirs)
        yield peer
    assert peer.worker.wait(60) is not None, "the loop ends with its link"


@pytest.fixture
def ready(peer, weights):
    fakes.write(weights, "other")
    peer.send({"type": "configure", "config": dataclasses.asdict(WorkerConfig(str(weights), device="cpu"))})
    peer.info = peer.receive()
    return peer


def hold(peer, gate):
    """Have the worker compute until the gate is gone; what is sent from now on waits together."""
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
    ready.send({"type": "cancel", "jobs": [2, 3, 99]})
    ready.submit((4, "echo", z(0.3)))
    release(ready, gate)
    assert ready.receive().header["parts"] == [[4, 0, 1, None]]


def test_a_lane_whose_last_rows_vanish_is_not_ticked(ready):
    """Submission and cancellation in one write: nothing comes back, and the loop goes on."""
    ready.send({"type": "cancel", "jobs": []})
    parts = pack({"type": "submit", "jobs": [(1, "echo")]}, [z(0.1), np.zeros(1, np.int64)])
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
    peer.send({"type": "configure", "config": dataclasses.asdict(WorkerConfig(str(weights), device="cpu"))})
    frame = peer.receive()
    assert frame.type == "failed"
    assert "model.safetensors: missing" in frame.header["error"]
    assert peer.worker.wait(60) == 1


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
