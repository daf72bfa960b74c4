"""What is computed next, and what may be computed beside it.

Knows lanes, the ticks that run and what was said to a lane meanwhile; knows no sockets and no tensors. Not thread-safe:
its owner calls it under a lock, and runs ticks outside of it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from app.worker.schedule import Schedule

Mark = Callable[[Iterable[int]], None]  # told, before it is computed, which jobs are: they may end the process


class Result(Protocol):
    """What a tick made."""

    @property
    def seconds(self) -> float:
        """Seconds of compute."""
        ...

    @property
    def limit(self) -> int | None:
        """The largest batch from now on, when memory ran out."""
        ...

    def frame(self, model: str) -> tuple[dict[str, Any], tuple[Any, ...]]:
        """The message that carries it."""
        ...


class Lane(Protocol):
    """One model with what waits for it.

    Attributes:
        exclusive: its ticks keep state, so one runs at a time and nothing may be said to the lane meanwhile.
    """

    exclusive: bool

    @property
    def waiting(self) -> int:
        """Units of work that wait; 0 when there is nothing to do."""
        ...

    def ready(self, running: int) -> bool:
        """Whether another tick beside so many running ones would pay."""
        ...

    def begin(self) -> Callable[[Mark], Result] | None:
        """Take the work of one tick; calling what this returns computes it. None: what waited has expired."""
        ...


@dataclass(frozen=True, slots=True)
class Tick:
    """One bounded piece of a lane's work, to be run by any thread."""

    name: str
    run: Callable[[Mark], Result]


def unmarked(numbers: Iterable[int]) -> None:  # a `Mark`
    """Leave no mark: nobody outlives this process to read it."""


class Dispatcher:
    """The lanes of a device, and whose turn it is."""

    def __init__(self, lanes: Mapping[str, Lane]) -> None:
        self._lanes = dict(lanes)
        self._schedule = Schedule(self._lanes)
        self._running: Counter[str] = Counter()
        self._unsaid: dict[str, list[Callable[[], None]]] = {name: [] for name in lanes}

    def say(self, name: str, something: Callable[[], None]) -> bool:
        """Do something to a lane now, or when its running tick is over; whether it was done now."""
        if self._lanes[name].exclusive and self._running[name]:
            self._unsaid[name].append(something)
            return False
        something()
        return True

    def has_unsaid(self, name: str) -> bool:
        """Whether the lane's running tick keeps something waiting; may be asked from the tick's own thread."""
        return bool(self._unsaid[name])

    def begin(self) -> Tick | None:
        """The tick that should run now; None when nothing waits, or nothing that may run beside what runs."""
        while (name := self._next()) is not None:
            if (run := self._lanes[name].begin()) is not None:
                self._running[name] += 1
                return Tick(name, run)
        return None

    def finish(self, tick: Tick, seconds: float) -> bool:
        """Charge a tick that is over to its lane, and say what had to wait for that; whether there was something."""
        self._running[tick.name] -= 1
        self._schedule.charge(tick.name, seconds)
        unsaid, self._unsaid[tick.name] = self._unsaid[tick.name], []
        for something in unsaid:
            something()
        return bool(unsaid)

    def _next(self) -> str | None:
        """The lane whose turn it is."""
        ready = {name for name, lane in self._lanes.items() if self._ready(name, lane)}
        return self._schedule.next(ready, {name for name in self._lanes if self._running[name]})

    def _ready(self, name: str, lane: Lane) -> bool:
        running = self._running[name]
        return bool(lane.waiting) and not (running and lane.exclusive) and lane.ready(running)
