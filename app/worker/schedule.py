"""Which lane works next: lanes share device seconds, not ticks.

Start-time fair queueing (Goyal et al. 1996): the lane that has had the fewest seconds goes first, and one that was idle
starts level with the others instead of collecting credit for its sleep.
"""

from collections.abc import Iterable, Set


class Schedule:
    """The seconds that each lane has had."""

    def __init__(self, lanes: Iterable[str]) -> None:
        """Begin with lanes that have had nothing, by name."""
        lanes = tuple(lanes)
        self._had = dict.fromkeys(lanes, 0.0)
        self._busy: set[str] = set()
        self._clock = 0.0  # where the lane that worked last began: who wakes up begins there too
        self._last = dict.fromkeys(lanes, 0)
        self._turns = 0

    def next(self, ready: Set[str], running: Set[str] = frozenset()) -> str | None:
        """The lane that should work now, of those that are ready; None when there are none.

        A lane that is neither ready nor running sleeps.
        """
        busy = set(ready | running)
        for name in busy - self._busy:
            self._had[name] = max(self._had[name], self._clock)
        self._busy = busy
        return min(ready, key=lambda name: (self._had[name], self._last[name], name)) if ready else None

    def charge(self, name: str, seconds: float) -> None:
        """Count seconds that a lane has just had."""
        self._turns += 1
        self._last[name] = self._turns  # of two that are level, the one that did not just work goes next
        self._clock = max(self._clock, self._had[name])
        self._had[name] += seconds
