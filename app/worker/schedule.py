"""Which lane works next: lanes share device seconds, not ticks.

Start-time fair queueing (Goyal et al. 1996): the lane that has had the fewest seconds goes first, and one that was idle
starts level with the others instead of collecting credit for its sleep.
"""

from typing import Protocol


class Lane(Protocol):
    """Something with work to do."""

    @property
    def waiting(self) -> int:
        """Units of work that wait; 0 when there is nothing to do."""
        ...


class Schedule:
    """The seconds that each lane has had."""

    def __init__(self, lanes: dict[str, Lane]) -> None:
        self._lanes = lanes
        self._had = dict.fromkeys(lanes, 0.0)
        self._busy: set[str] = set()
        self._clock = 0.0  # where the lane that worked last began: who wakes up begins there too
        self._last = dict.fromkeys(lanes, 0)
        self._turns = 0

    def next(self) -> str | None:
        """The name of the lane that should work now; None when nothing waits anywhere."""
        busy = {name for name, lane in self._lanes.items() if lane.waiting}
        for name in busy - self._busy:
            self._had[name] = max(self._had[name], self._clock)
        self._busy = busy
        return min(busy, key=lambda name: (self._had[name], self._last[name])) if busy else None

    def charge(self, name: str, seconds: float) -> None:
        """Count seconds that a lane has just had."""
        self._turns += 1
        self._last[name] = self._turns  # of two that are level, the one that did not just work goes next
        self._clock = max(self._clock, self._had[name])
        self._had[name] += seconds
