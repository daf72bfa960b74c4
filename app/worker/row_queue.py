"""Rows that wait, and whose turn it is: clients take turns, and so do the jobs of each.

Knows jobs, rows and clients; forms no batches. A turn is a few rows, so that neither a job of 64 rows nor a client with
a thousand jobs holds up anybody else; every step costs the same however long the queue is.
"""

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from app.engine.jobs import LatentJob

TURN_ROWS = 8  # rows of one turn, of a client among clients and of a job among its client's jobs


class Slice(NamedTuple):
    """Some consecutive rows of a job that go into one batch."""

    number: int
    job: LatentJob
    start: int
    rows: int
    waited: float


@dataclass(slots=True)
class _Waiting:
    """A job whose rows are taken in order; `had` are those of its present turn."""

    job: LatentJob
    arrived: float
    left: int
    had: int = 0


@dataclass(slots=True)
class _Client:
    """The jobs of a client by number, the next one first; what it had beyond its turn is taken off its next one."""

    jobs: OrderedDict[int, _Waiting] = field(default_factory=OrderedDict)
    had: int = 0


class RowQueue:
    """Jobs by client, in the order of their turns.

    Attributes:
        rows: that wait.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._clients = OrderedDict[str, _Client]()
        self._names: dict[int, str] = {}  # the client of each job, by number: who leaves is found at once

    def add(self, number: int, job: LatentJob) -> None:
        """Queue a job under its number."""
        name, rows = job.client, job.rows
        if (client := self._clients.get(name)) is None:
            client = self._clients[name] = _Client()
        client.jobs[number] = _Waiting(job, time.monotonic(), rows)
        self._names[number] = name
        self.rows += rows

    def remove(self, numbers: set[int]) -> None:
        """Forget what waits of these jobs."""
        for number in numbers:
            if (name := self._names.pop(number, None)) is not None:
                jobs = self._clients[name].jobs
                self.rows -= jobs.pop(number).left
                if not jobs:
                    del self._clients[name]

    def take(self, limit: int) -> list[Slice]:
        """Take up to so many rows in turns; fewer only when no more wait. What has expired is dropped on the way."""
        now, room = time.monotonic(), limit
        taken: dict[int, tuple[_Waiting, int]] = {}  # with how many of its rows were left before
        while room and self._clients:
            name, client = next(iter(self._clients.items()))
            room = self._turn(client, room, now, taken)
            if not client.jobs:
                del self._clients[name]
            elif client.had >= TURN_ROWS:
                client.had -= TURN_ROWS
                self._clients.move_to_end(name)
        return [
            Slice(number, waiting.job, waiting.job.rows - before, before - waiting.left, now - waiting.arrived)
            for number, (waiting, before) in taken.items()
        ]

    def _turn(self, client: _Client, room: int, now: float, taken: dict[int, tuple[_Waiting, int]]) -> int:
        """Take a client's rows until its turn is over, or the batch is full; how much room that leaves."""
        jobs = client.jobs
        while room and jobs and client.had < TURN_ROWS:
            number, waiting = jobs.popitem(last=False)
            left = waiting.left
            if waiting.job.deadline <= now:
                self.rows -= left
                del self._names[number]
                continue
            taken.setdefault(number, (waiting, left))
            count = min(TURN_ROWS - waiting.had, room, left)
            waiting.left -= count
            client.had += count
            self.rows -= count
            room -= count
            if count == left:
                del self._names[number]
                continue
            waiting.had = (waiting.had + count) % TURN_ROWS
            jobs[number] = waiting
            if waiting.had:  # the batch is full: its turn goes on in the next
                jobs.move_to_end(number, last=False)
        return room
