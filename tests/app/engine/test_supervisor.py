"""Workers are started, watched and ended, whatever they do."""

import asyncio
import contextlib
import os
import socket

from app.engine import supervisor
from app.engine.jobs import WorkerConfig
from app.engine.marks import Marks
from app.engine.supervisor import EarlyProcess, Worker, WorkerProcess, early_processes
from tests.serving import alive, eventually


def ignore(*_):
    pass


class Stubborn:
    """Never ends unless it is killed."""

    def __init__(self, sock, marks):
        self.sock, self.killed, self.pid = sock, False, os.getpid()

    def wait(self, timeout):
        return -9 if self.killed else None

    def kill(self):
        self.killed = True
        self.sock.close()


async def test_a_worker_that_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 0.01)
    handles, lost = [], []

    def launch(sock, marks):
        handles.append(Stubborn(sock, marks))
        return handles[0]

    worker = Worker(WorkerConfig("weights"), ignore, lost.append)
    assert worker.pid is None
    await worker.start(launch)
    assert worker.pid == os.getpid()
    assert await worker.stop() == -9
    assert handles[0].killed
    await asyncio.sleep(0.01)
    assert lost == [], "it was asked to end: that is no loss"
    worker.send({"type": "cancel", "jobs": []})  # and to talk to it is harmless


async def test_stopping_what_never_started():
    assert await Worker(WorkerConfig("weights"), ignore, ignore).stop() is None


async def test_a_lost_worker_is_reported_once():
    lost = []
    worker = Worker(WorkerConfig("weights"), ignore, lost.append)
    handles = []
    await worker.start(lambda *given: handles.append(Stubborn(*given)) or handles[0])
    handles[0].kill()
    await eventually(lambda: lost)
    assert await worker.stop() == -9
    assert lost == [worker]


def test_a_worker_process_ends_when_its_link_closes():
    ours, theirs = socket.socketpair()
    with ours, theirs, contextlib.closing(Marks.create()) as marks:
        process = WorkerProcess(theirs, marks)
        assert alive(process.pid)
        assert process.wait(0) is None
    assert process.wait(60) == 0
    assert not alive(process.pid)


def test_a_worker_process_can_be_killed():
    ours, theirs = socket.socketpair()
    with ours, theirs, contextlib.closing(Marks.create()) as marks:
        process = WorkerProcess(theirs, marks)
        process.kill()
        assert process.wait(60) == -9


async def test_ending_a_worker_tells_what_it_was_computing():
    worker, handles = Worker(WorkerConfig("weights"), ignore, ignore), []
    await worker.start(lambda *given: handles.append(Stubborn(*given)) or given[1].begin(0, [4, 9]) or handles[0])
    assert await worker.end() == (-9, {4, 9})
    assert await worker.end() == (-9, set()), "told once"


async def test_early_processes_are_handed_their_links_and_then_there_are_fresh_ones(tmp_path):
    frames, lost = [], []
    with early_processes(1) as launch:
        workers = [
            Worker(WorkerConfig(str(tmp_path)), lambda worker, frame: frames.append((worker, frame.type)), lost.append)
            for _ in range(2)
        ]
        for worker in workers:
            await worker.start(launch)
        assert [type(worker._handle) for worker in workers] == [EarlyProcess, WorkerProcess]
        await eventually(lambda: len(lost) == 2)
    assert set(frames) == {(worker, "failed") for worker in workers}, "there are no weights, as both were told"
    assert [await worker.end(60) for worker in workers] == [(1, set())] * 2


def test_an_early_process_that_is_not_wanted_ends():
    process = EarlyProcess()
    process._told.close()  # as the end of its parent does
    assert process.wait(60) == 0


def test_early_processes_that_are_left_over_are_ended(monkeypatch):
    made = []
    monkeypatch.setattr(supervisor, "EarlyProcess", lambda: made.append(EarlyProcess()) or made[-1])
    with early_processes(2):
        assert [alive(process.pid) for process in made] == [True, True]
    assert [process.wait(60) for process in made] == [-9, -9]


def test_an_early_process_that_has_died_is_replaced(monkeypatch):
    dead = EarlyProcess()
    dead.kill()
    assert dead.wait(60) == -9
    monkeypatch.setattr(supervisor, "EarlyProcess", lambda: dead)
    ours, theirs = socket.socketpair()
    with early_processes(1) as launch, contextlib.closing(Marks.create()) as marks:
        with ours, theirs:
            process = launch(theirs, marks)
            assert type(process) is WorkerProcess
            assert process.pid != dead.pid
        assert process.wait(60) == 0
