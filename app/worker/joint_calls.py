"""Calls that several wait for: one call for each key, however many ask for it before it is done.

Knows futures; knows neither what is called nor where. Who gives up leaves the others theirs; when all have, a call that
has not begun is given up too.
"""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
C = TypeVar("C")
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Call(Generic[C, T]):
    """A call under way, and the futures of those who wait for it, in the order in which they came."""

    common: Future[C]
    waiting: dict[Future[T], None] = field(default_factory=dict)


class JointCalls(Generic[K, C, T]):
    """Calls under way, by key; as many futures as are waited for."""

    def __init__(self, own: Callable[[C], T]) -> None:
        """Nothing is called yet; `own` makes each one's result of the common one, or raises."""
        self._own = own
        self._lock = threading.RLock()  # a call that is cancelled under it ends under it
        self._calls: dict[K, _Call[C, T]] = {}

    def join(self, key: K, start: Callable[[], Future[C]]) -> Future[T]:
        """A future of one's own, of the call that is under way for this key; else of one that `start` begins.

        It fails with what the call or `own` raises.
        """
        with self._lock:
            if fresh := key not in self._calls:
                self._calls[key] = _Call(start())
            call, future = self._calls[key], Future[T]()
            call.waiting[future] = None
        future.add_done_callback(lambda gone: self._leave(call, gone))
        if fresh:  # without the lock: it may be over already
            call.common.add_done_callback(lambda _: self._end(key, call))
        return future

    def _leave(self, call: _Call[C, T], future: Future[T]) -> None:
        """Somebody waits no more: has a result, or has given up."""
        with self._lock:
            if future not in call.waiting:
                return
            del call.waiting[future]
            if not call.waiting:
                call.common.cancel()  # in vain once it has begun: then it is there for whoever asks next

    def _end(self, key: K, call: _Call[C, T]) -> None:
        """A call is over: give each who waits its result, without the lock."""
        with self._lock:
            self._calls.pop(key)
            waiting, call.waiting = list(call.waiting), {}
        for future in waiting:
            if future.set_running_or_notify_cancel():
                self._give(call.common, future)

    def _give(self, common: Future[C], future: Future[T]) -> None:
        try:
            result = self._own(common.result())
        except BaseException as error:  # noqa: BLE001  # a panic of a Rust library is no Exception
            future.set_exception(error)
        else:
            future.set_result(result)
