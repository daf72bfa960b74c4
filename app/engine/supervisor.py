"""One device worker from its start to its end: a process, a socket pair to talk over, and marks that outlive it.

Knows processes, sockets and frames; what the frames mean is the engine's business.
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

from numpy.typing import NDArray

from app.engine.jobs import WorkerConfig
from app.engine.link import Frame, FrameReader, LinkError, pack
from app.engine.marks import Marks

SOCKET_BUFFER = 1 << 20
STOP_SECONDS = 2.0  # by then all is answered that will be: a worker still inside a batch computes for nobody
# MKL's conditional numerical reproducibility: without it, the bits of a product depend on where in memory its factors
# lie, and a sequence would change its tokens with its slot (ADR 3). glibc: threads share two heaps, for what they free
# in heaps of their own is of no use to the others; and weights lie in huge pages, which a step of one row reads a tenth
# faster, where the system gives those only to who asks.
WORKER_ENVIRONMENT = {
    "MKL_CBWR": "AUTO",
    "PYTHONUNBUFFERED": "1",
    "MALLOC_ARENA_MAX": "2",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}

log = logging.getLogger("genserve.supervisor")


class Handle(Protocol):
    """What runs the worker's loop: a process, or a thread in tests and when embedded."""

    @property
    def pid(self) -> int:
        """The process in which the worker runs."""
        ...

    def wait(self, timeout: float) -> int | None:
        """Wait for the end; the exit status, or None when it is not over in time."""
        ...

    def kill(self) -> None:
        """End it at once, if that is possible."""
        ...


Launch = Callable[[socket.socket, Marks], Handle]


class WorkerProcess:
    """A device worker in a process of its own."""

    def __init__(self, sock: socket.socket, marks: Marks) -> None:
        self._process = _start({"--fd": sock.fileno(), "--marks": marks.fd})

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def wait(self, timeout: float) -> int | None:
        """Wait for the process to end; its exit status, or None when it is not over in time."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()


class EarlyProcess(WorkerProcess):
    """A worker that is started ahead and handed its link and marks later: it imports torch meanwhile."""

    def __init__(self) -> None:
        self._told, theirs = socket.socketpair()
        with theirs:
            self._process = _start({"--told": theirs.fileno()})

    def tell(self, sock: socket.socket, marks: Marks) -> None:
        """Hand link and marks over, once.

        Raises:
            OSError: the process has ended.
        """
        with self._told:
            socket.send_fds(self._told, [b"\0"], [sock.fileno(), marks.fd])

    def end(self) -> None:
        """It is not wanted, or is of no use."""
        self._told.close()
        self.kill()
        self.wait(STOP_SECONDS)


@contextlib.contextmanager
def early_processes(count: int) -> Iterator[Launch]:
    """So many processes at once; what it gives launches these first, then fresh ones. Those left over are ended."""
    spare = [EarlyProcess() for _ in range(count)]

    def launch(sock: socket.socket, marks: Marks) -> Handle:
        while spare:
            process = spare.pop()
            try:
                process.tell(sock, marks)
            except OSError:
                process.end()
            else:
                return process
        return WorkerProcess(sock, marks)

    try:
        yield launch
    finally:
        for process in spare:
            process.end()


def _start(descriptors: Mapping[str, int]) -> "subprocess.Popen[bytes]":
    """A worker that inherits these descriptors, each told by a flag, and ends with this process."""
    flags = [part for flag, descriptor in descriptors.items() for part in (flag, str(descriptor))]
    # -P: a folder named app or models where the operator happens to be must not stand in for ours
    return subprocess.Popen(  # noqa: S603  # our own interpreter and module
        [sys.executable, "-P", "-m", "app.worker", *flags, "--parent", str(os.getpid())],
        pass_fds=tuple(descriptors.values()),
        stdin=subprocess.DEVNULL,
        env=WORKER_ENVIRONMENT | os.environ,
    )


class Worker(asyncio.Protocol):
    """One device worker as the HTTP side sees it: a stream of frames each way.

    `on_frame(worker, frame)` is called for each frame; `on_lost(worker)` once, when the worker is gone unasked.
    """

    def __init__(
        self, config: WorkerConfig, on_frame: Callable[["Worker", Frame], None], on_lost: Callable[["Worker"], None]
    ) -> None:
        self.config = config
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._reader = FrameReader()
        self._handle: Handle | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._marks: Marks | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """The process in which the worker runs; None before it was started."""
        return self._handle.pid if self._handle else None

    async def start(self, launch: Launch) -> None:
        """Launch the worker and send it its configuration; it answers with a frame when it is loaded."""
        self._marks = Marks.create()
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
        try:
            # On this thread, not in a pool: the kernel ends the worker with the thread that started it.
            self._handle = launch(theirs, self._marks)
        finally:
            if not (self._handle and self._handle.pid == os.getpid()):  # a thread keeps using its end
                theirs.close()
        ours.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: self, sock=ours)
        self.send({"type": "configure", "config": dataclasses.asdict(self.config)})

    def send(self, header: Mapping[str, Any], arrays: Sequence[NDArray[Any]] = ()) -> None:
        """Send one frame; quietly dropped when the worker is gone, whose loss is reported by `on_lost`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(pack(header, arrays))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is one without deriving from it

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        try:
            for frame in self._reader.feed(data):
                self._on_frame(self, frame)
        except LinkError:
            log.exception("the worker sent something that is not a frame; closing the link")
            assert self._transport is not None
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Called by asyncio: the worker is gone, or `stop` closed the link."""
        self._transport = None
        if not self._stopping:
            self._on_lost(self)

    async def stop(self) -> int | None:
        """Close the link, which ends the worker; kill it when it does not end in time. Returns its exit status."""
        self._close()
        status = None if self._handle is None else await asyncio.to_thread(self._handle.wait, STOP_SECONDS)
        if self._handle is not None and status is None:
            log.info("worker %d did not end within %.0f s; killing it", self._handle.pid, STOP_SECONDS)
        return (await self.end())[0]

    async def end(self, grace: float = 0.0) -> tuple[int | None, set[int]]:
        """Kill the worker, if it still runs after the grace: its exit status, and the jobs that it was computing."""
        self._close()
        status = None
        if self._handle is not None:
            if await asyncio.to_thread(self._handle.wait, grace) is None:
                self._handle.kill()
            status = await asyncio.to_thread(self._handle.wait, STOP_SECONDS)
        running: set[int] = set()
        if self._marks is not None:
            running, marks, self._marks = self._marks.running(), self._marks, None
            marks.close()
        return status, running

    def _close(self) -> None:
        self._stopping = True
        if self._transport is not None:
            self._transport.close()
