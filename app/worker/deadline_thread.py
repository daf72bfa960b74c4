"""A thread for work that may hang: a deadline, a bounded queue and, when it hangs, a bounded number of successors.

Work in a library can't be interrupted. What is overdue fails at once for whoever waits; its thread is left to end by
itself, with the lowest priority, and another takes over. When too many hang, everything is refused until one ends.
"""

import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

LOWEST = 19  # niceness

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Task(Generic[T]):
    """Work, what is told when it is overdue, and where its result goes."""

    work: Callable[[], T]
    overdue: Callable[[str], object]
    future: Future[T] = field(default_factory=Future)
    settled: bool = False  # the future has an outcome, or is just given one


class DeadlineThread(Generic[T]):
    """Calls one function after another in a daemon thread, which starts with the first."""

    def __init__(
        self,
        name: str,
        seconds: float,
        queue: int,
        hanging: int,
        refused: Callable[[str], Exception],
        late: Callable[[str], Exception],
    ) -> None:
        """Start nothing yet.

        Args:
            name: of the threads.
            seconds: that one call may take.
            queue: calls that may wait.
            hanging: threads that may hang before all calls are refused.
            refused: makes the exception of a future whose call was refused: nothing is wrong with it.
            late: makes the exception of a future whose call took too long.
        """
        self._name, self._seconds, self._queue, self._hanging, self._refused = name, seconds, queue, hanging, refused
        self._late = late
        self._waiting = deque[_Task[T]]()
        self._changed = threading.Condition()  # guards all that follows, and what waits
        self._thread: threading.Thread | None = None  # the one that takes what waits
        self._hung = 0
        self._open = True

    def submit(self, work: Callable[[], T], overdue: Callable[[str], object] = lambda _: None) -> Future[T]:
        """Have `work` called; the future fails with its exception, or with a refusal. A cancelled one takes no place.

        `overdue` is told the reason, before the future fails, when the work takes too long.
        """
        task = _Task(work, overdue)
        with self._changed:
            refusal = self._refusal()
            if refusal is None:
                self._waiting.append(task)
                self._succeed()
                self._changed.notify()
        if refusal is not None:
            task.future.set_exception(self._refused(refusal))
        return task.future

    def close(self) -> None:
        """Refuse what waits and all that comes; the thread ends when its call does."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
        self._flush("closed")

    def _refusal(self) -> str | None:
        if not self._open:
            return "closed"
        if self._hung >= self._hanging:
            return "too many are overdue"
        if len(self._waiting) >= self._queue:
            self._waiting = deque(task for task in self._waiting if not task.future.cancelled())
        return "too many are waiting" if len(self._waiting) >= self._queue else None

    def _succeed(self) -> None:
        """See that some thread takes what waits, unless too many hang; the lock is held."""
        if self._thread is None and self._hung < self._hanging and self._open:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Wait for a task and see it through; False when there will be none."""
        if (task := self._next()) is None:
            return False
        if task.future.set_running_or_notify_cancel():
            overdue = threading.Timer(self._seconds, self._give_up, (task, threading.current_thread()))
            overdue.daemon = True
            overdue.start()
            self._call(task)
            overdue.cancel()
        return True

    def _next(self) -> _Task[T] | None:
        """The next task; None when this thread has been given up, or the queue was closed."""
        with self._changed:
            if self._thread is not threading.current_thread():
                self._hung -= 1
                self._succeed()
                return None
            while self._open and not self._waiting:
                self._changed.wait()
            return self._waiting.popleft() if self._waiting and self._open else None

    def _call(self, task: _Task[T]) -> None:
        try:
            result = task.work()
        except BaseException as error:  # noqa: BLE001  # a panic of a Rust library is no Exception
            self._settle(task, error)
        else:
            self._settle(task, None, result)

    def _settle(self, task: _Task[T], error: BaseException | None, result: T | None = None) -> None:
        """Give a future its outcome, unless it has one; what its callbacks do needs no lock of ours."""
        with self._changed:
            if task.settled:
                return
            task.settled = True
        if error is not None:
            task.future.set_exception(error)
        else:
            task.future.set_result(result)  # type: ignore[arg-type]  # T itself may be optional

    def _give_up(self, task: _Task[T], thread: threading.Thread) -> None:
        """The deadline of a task has passed."""
        with self._changed:
            if task.settled or self._thread is not thread:
                return
            self._thread = None
            self._hung += 1
            self._succeed()
            exhausted = self._thread is None
        _step_back(thread)
        reason = f"not done within {self._seconds:g} seconds"
        task.overdue(reason)
        self._settle(task, self._late(reason))
        if exhausted:
            self._flush("too many are overdue")

    def _flush(self, refusal: str) -> None:
        """Refuse all that wait."""
        with self._changed:
            waiting = list(self._waiting)
            self._waiting.clear()
        for task in waiting:
            if task.future.set_running_or_notify_cancel():
                task.future.set_exception(self._refused(refusal))


def _step_back(thread: threading.Thread) -> None:
    """Give a thread the lowest priority, where the system has one for each."""
    if sys.platform == "linux" and thread.native_id is not None:
        with contextlib.suppress(OSError):  # it has ended
            os.setpriority(os.PRIO_PROCESS, thread.native_id, LOWEST)
