"""Rows that come back: after each tick they wait again, until they are done. Clients take turns, and so do their jobs.

Knows rows, clients and deadlines; knows nothing of what a tick does. A row at a time is taken in turn, so that neither
a job of many rows nor a client with many jobs holds up anybody else; every step costs the same however many wait.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.engine.jobs import RefineJob


@dataclass(slots=True)
class Row:
    """One row of a job on its way.

    Attributes:
        number: of its job.
        job: to which it belongs.
        index: which row of it.
        state: [S], what the steps so far have made of it.
        arrived: by `time.monotonic`.
        done: steps so far.
        waited: seconds before the first of them.
    """

    number: int
    job: RefineJob
    index: int
    state: NDArray[np.float32]
    arrived: float
    done: int = 0
    waited: float = 0.0

    @property
    def left(self) -> int:
        """Steps that are still to be made."""
        return self.job.steps - self.done


class Turns:
    """Rows by client and job, in the order of their turns.

    Attributes:
        rows: that wait.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._clients = OrderedDict[str, OrderedDict[int, deque[Row]]]()

    def add(self, rows: Sequence[Row]) -> None:
        """Queue rows behind those of their jobs."""
        for row in rows:
            self._of(row).append(row)
        self.rows += len(rows)

    def put_back(self, rows: Sequence[Row]) -> None:
        """Queue rows again, before those of their jobs that have not begun."""
        for row in reversed(rows):
            self._of(row).appendleft(row)
        self.rows += len(rows)

    def _of(self, row: Row) -> deque[Row]:
        return self._clients.setdefault(row.job.client, OrderedDict()).setdefault(row.number, deque())

    def remove(self, numbers: set[int]) -> None:
        """Forget the rows of these jobs."""
        for client, jobs in list(self._clients.items()):
            for number in numbers & jobs.keys():
                self.rows -= len(jobs.pop(number))
            if not jobs:
                del self._clients[client]

    def take(self, limit: int) -> list[Row]:
        """Take up to so many rows in turns; fewer only when no more wait. What has expired is dropped on the way."""
        now = time.monotonic()
        taken: list[Row] = []
        while len(taken) < limit and self._clients:
            row = self._next()
            if row.job.deadline > now:
                taken.append(row)
        return taken

    def _next(self) -> Row:
        """The row whose turn it is; its client and its job are the last ones now."""
        client, jobs = next(iter(self._clients.items()))
        number, rows = next(iter(jobs.items()))
        row = rows.popleft()
        self.rows -= 1
        jobs.move_to_end(number)
        self._clients.move_to_end(client)
        if not rows:
            del jobs[number]
        if not jobs:
            del self._clients[client]
        return row
