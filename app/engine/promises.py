"""What refused clients were told: when to come back, and that there will be room for them then.

Those who come back when they were told to go before those who come for the first time. They are told times one after
the other, as far apart as the worker needs for each, so that they do not all come at once; but of those who are told,
only some come back: the distance follows the share that does.
"""

import heapq
import time
from collections import deque
from collections.abc import Callable, Hashable

GRACE = 5.0  # seconds after its time for which a promise holds; Retry-After is rounded up to whole seconds
MOST = 16384  # promises at once; beyond, times are told but not remembered
LONGEST = 60.0  # nobody is told a longer wait
SMOOTHING = 0.02  # weight of the newest promise in the share of those that are kept
LEAST_SHARE = 0.05


class Promises:
    """Times told to refused clients, by whatever a client is known by."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: dict[Hashable, deque[float]] = {}
        self._order: list[tuple[float, int, Hashable]] = []
        self._count = 0
        self._share = 1.0
        self._next = 0.0

    def __bool__(self) -> bool:
        """Whether anybody was told to come back."""
        return bool(self._order)

    def make(self, key: Hashable, wait: float, seconds: float) -> float:
        """Promise room to a client who is refused now; how many seconds it shall wait.

        Args:
            key: by which it will be known.
            wait: seconds after which there would be room for it, were it alone.
            seconds: that its work takes of the worker's time.
        """
        now = self._clock()
        self._forget(now)
        due = min(max(now + wait, self._next), now + LONGEST)
        self._next = due + seconds * max(self._share, LEAST_SHARE)
        if len(self._order) < MOST:
            self._count += 1
            self._due.setdefault(key, deque()).append(due)
            heapq.heappush(self._order, (due, self._count, key))
        return due - now

    def redeem(self, key: Hashable) -> bool:
        """Whether this client was told to come now; the promise is used up."""
        now = self._clock()
        self._forget(now)
        times = self._due.get(key)
        if not times or times[0] > now:
            return False
        self._drop(key)
        self._share += SMOOTHING * (1.0 - self._share)
        return True

    def _drop(self, key: Hashable) -> None:
        times = self._due[key]
        times.popleft()
        if not times:
            del self._due[key]

    def _forget(self, now: float) -> None:
        """Let go of what is over: redeemed, or not come for."""
        while self._order and self._order[0][0] + GRACE < now:
            due, _, key = heapq.heappop(self._order)
            times = self._due.get(key)
            if times and times[0] <= due:
                self._drop(key)
                self._share -= SMOOTHING * self._share
