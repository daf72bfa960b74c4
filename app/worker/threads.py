"""How many threads compute one batch or step, and which thread leads them.

OpenMP keeps a team for every thread that has ever led one. Once the teams of a process have more threads than there are
CPUs, none of them waits by spinning any more, and each of a step's hundreds of parallel regions costs a sleep and a
wake-up (half as fast again, measured). So one thread leads whatever several compute; all others compute alone.
"""

import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import torch

from app.engine.jobs import WorkerConfig

T = TypeVar("T")
ALL_THREADS_PARAMETERS = 1 << 25  # from here on one step takes every core


def compute_threads(config: WorkerConfig, device: torch.device) -> int:
    """Threads that compute: as configured, or one a core; a GPU is fed by one."""
    if device.type != "cpu":
        return 1
    return config.threads or len(os.sched_getaffinity(0))


def sequence_threads(parameters: int, threads: int) -> int:
    """Threads that compute one step of a sequence model, out of so many.

    Threads of one product wait for each other at barriers: with none left for HTTP, all of them would wait for it. A
    large network's products are long beside that. Told by size, never by a measurement: threads decide bits.
    """
    return threads if parameters >= ALL_THREADS_PARAMETERS else max(1, threads - 1)


def compute_with(threads: int) -> None:
    """Have torch's operations on this thread use so many threads of the CPU."""
    torch.get_num_threads()  # its first call on a thread takes over the whole process's number: not after ours is set
    torch.set_num_threads(threads)


def on_threads(threads: int, compute: Callable[[], T]) -> T:
    """What a function gives that uses so many threads: computed here when that is one, else by the leader."""
    if threads > 1 and threading.current_thread() is not _leader:
        return _leader.lead(threads, compute)
    compute_with(threads)
    return compute()


class _Leader(threading.Thread):
    """Computes one thing after the other, each for somebody who waits for it."""

    def __init__(self) -> None:
        super().__init__(name="compute-leader", daemon=True)
        self._asked = queue.SimpleQueue[tuple[int, Callable[[], Any], "Future[Any]"]]()  # one entry a waiting thread
        self._starting = threading.Lock()

    def lead(self, threads: int, compute: Callable[[], T]) -> T:
        """Have it computed, and wait for that."""
        with self._starting:
            if not self.is_alive():
                self.start()
        answer = Future[T]()
        self._asked.put((threads, compute, answer))
        return answer.result()

    def run(self) -> None:
        while True:
            self._answer(*self._asked.get())

    def _answer(self, threads: int, compute: Callable[[], Any], answer: "Future[Any]") -> None:
        """In a frame of its own, so that nothing of what was computed stays behind."""
        try:
            compute_with(threads)
            answer.set_result(compute())
        except BaseException as error:  # noqa: BLE001  # whoever waits for it gets it
            answer.set_exception(error)


_leader = _Leader()
