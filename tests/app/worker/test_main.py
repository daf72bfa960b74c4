"""The worker as a process: what its exit says, and what its marks say after it."""

import contextlib
import dataclasses
import math
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from app.engine.jobs import SequenceJob, WorkerConfig
from app.engine.link import FrameReader, pack
from app.engine.marks import Marks
from app.worker.faults import UNUSABLE
from tests import fake_sequences, fakes
from tests.serving import ROOT, wait_until


class Process:
    """A worker process, and the other end of its link."""

    def __init__(self, sock, marks, process):
        self.sock, self.marks, self.process, self.reader, self.frames = sock, marks, process, FrameReader(), []
        sock.settimeout(100)

    def send(self, header, *arrays):
        self.sock.sendall(b"".join(map(bytes, pack(header, arrays))))

    def receive(self):
        while not self.frames:
            data = self.sock.recv(1 << 20)
            assert data, "the worker has closed the link"
            self.frames += self.reader.feed(data)
        return self.frames.pop(0)

    def configure(self, weights, threads=2):
        modules = "tests.fake_sequences"
        config = WorkerConfig(
            str(weights), device="cpu", dtype="fp32", threads=threads, max_slots=2, models_module=modules
        )
        self.send({"type": "configure", "config": dataclasses.asdict(config)})
        return self.receive()

    def submit(self, number, model, first):
        latents = np.array([[first, 0, 0, 0]], np.float32)
        self.send({"type": "submit", "jobs": [(number, model, "", math.inf)]}, latents, np.zeros(1, np.int64))

    def write(self, number, prompt):
        job = SequenceJob("text", tuple(map(ord, prompt)), 20, seed=1)
        self.send(fake_sequences.frame_of(number, job))

    def hold(self, number, gate):
        self.submit(number, "echo", fakes.GATE)
        wait_until(fakes.held(gate).exists, "the worker does not reach the gate")


@pytest.fixture
def start():
    """`start(*flags)`: a worker process, ended with the test."""
    with contextlib.ExitStack() as stack:

        def launch(*flags):
            ours, theirs = socket.socketpair()
            marks = Marks.create()
            command = [sys.executable, "-m", "app.worker", "--fd", str(theirs.fileno()), "--marks", str(marks.fd)]
            process = subprocess.Popen([*command, *flags], pass_fds=[theirs.fileno(), marks.fd], cwd=ROOT)
            theirs.close()
            stack.callback(process.wait, 60)
            stack.callback(process.kill)
            stack.callback(marks.close)
            stack.enter_context(ours)
            return Process(ours, marks, process)

        yield launch


@pytest.fixture
def ready(start, weights):
    """A worker with two threads and models of both kinds."""
    fakes.write(weights, "other")
    fake_sequences.write(weights, "text", "counting", eos=None)
    process = start("--parent", str(os.getpid()))
    assert process.configure(weights).type == "ready"
    return process


def test_a_closed_link(ready):
    ready.submit(1, "echo", 0.5)
    assert ready.receive().type == "batch"
    ready.sock.close()
    assert ready.process.wait(60) == 0
    assert ready.marks.running() == set()


def test_models_that_can_not_be_loaded(start, weights):
    (weights / "echo" / "model.safetensors").unlink()
    process = start()
    assert process.configure(weights).type == "failed"
    assert process.process.wait(60) == 1


def test_a_lost_device_ends_it_at_once_though_a_thread_hangs(ready, gate):
    ready.hold(1, gate)
    ready.submit(2, "other", fakes.LOST)
    assert ready.process.wait(60) == UNUSABLE
    assert ready.marks.running() == {1, 2}


def test_who_was_computed_when_it_was_killed(ready, gate):
    ready.hold(1, gate)
    ready.submit(2, "echo", 0.5)
    ready.submit(3, "other", 0.5)
    assert ready.receive().header["parts"] == [[3, 0, 1, None]]
    ready.process.send_signal(signal.SIGKILL)
    assert ready.process.wait(60) == -signal.SIGKILL
    assert ready.marks.running() == {1}


def test_a_job_that_kills_it(ready):
    ready.submit(1, "echo", fakes.EXIT)
    assert ready.process.wait(60) == 9
    assert ready.marks.running() == {1}


@pytest.mark.parametrize("prompt", [fake_sequences.EXIT_PREFILL, fake_sequences.EXIT])
def test_a_sequence_that_kills_it(ready, prompt):
    ready.write(1, prompt)
    assert ready.process.wait(60) == 9
    assert ready.marks.running() == {1}


def test_a_parent_that_is_gone_already(start):
    process = start("--parent", str(1 << 22))
    assert process.process.wait(60) == 0
