"""Rows that are computed together: all at once, or by halves where that fails, until it is known whose fault it was.

Every size that they are computed in is exact, so a row that succeeds has the bytes that it would have had alone. Knows
rows and errors; which rows make a batch, and what becomes of them, is a lane's business.
"""

import logging
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.engine.jobs import Labels, Rows
from app.worker.faults import NOT_FINITE, reason

log = logging.getLogger("genserve.worker")


class Runner(Protocol):
    """What a batch needs of a model, of its encoder, or of what refines its latents."""

    buckets: tuple[int, ...]
    seconds: tuple[float, ...]

    def bucket_for(self, rows: int) -> int: ...  # noqa: D102
    def compute(self, rows: Rows, labels: Labels, /) -> tuple[Rows, NDArray[np.bool_]]: ...  # noqa: D102


class Batch:
    """Rows while they are computed.

    Attributes:
        rows: how many.
        made: what has come of them; None when all failed, anything where one failed.
        errors: of those that failed, by row.
    """

    def __init__(self, runner: Runner, inputs: Rows, labels: Labels, shares: Sequence[int]) -> None:
        """`shares` says how many rows each job has, one job after another."""
        self._runner = runner
        self._inputs, self._labels, self._shares = inputs, labels, shares
        self.rows = len(labels)
        self.made: Rows | None = None
        self.errors: dict[int, str] = {}
        self._computed: list[int] = []  # how many rows at once
        self._too_many: list[int] = []  # likewise, where memory ran out

    def compute(self) -> None:
        """Compute all rows."""
        self._compute(0, self.rows)

    def _compute(self, start: int, end: int) -> None:
        """Compute these rows; when they fail, find out which of them do so alone."""
        try:
            made, finite = self._runner.compute(self._inputs[start:end], self._labels[start:end])
        except Exception as error:  # noqa: BLE001  # the network may raise anything, and only its job may pay for it
            bad, why, memory = list(range(start, end)), reason(error), isinstance(error, MemoryError)
            said = repr(error)
        else:
            self._keep(start, end, made)
            if all(finite.tolist()):
                return
            bad, why, memory = (start + np.flatnonzero(~finite)).tolist(), NOT_FINITE, False
            said = NOT_FINITE
        # Outside of `except`, for the exception holds the tensors of the batch that failed.
        if memory:
            self._too_many.append(end - start)
        if end - start == 1 or (not memory and self._of_one_job(bad)):
            log.warning("%d rows of one job failed alone: %s", len(bad), said)
            self.errors.update(dict.fromkeys(bad, why))
            return
        middle = (start + end) // 2
        self._compute(start, middle)
        self._compute(middle, end)

    @property
    def padding(self) -> int:
        """Rows computed beyond those that were wanted."""
        return self._runner.bucket_for(self.rows) - self.rows

    @property
    def limit(self) -> int | None:
        """The largest size that did fit, below all that did not; None when memory has not run out.

        There is none below the smallest: of a row that does not fit alone, the size is not at fault.
        """
        if not self._too_many:
            return None
        too_large = self._runner.bucket_for(min(self._too_many))
        fit = {self._runner.bucket_for(rows) for rows in self._computed}
        return max((size for size in fit if size < too_large), default=None)

    def _keep(self, start: int, end: int, made: Rows) -> None:
        self._computed.append(end - start)
        if end - start == self.rows:
            self.made = made
            return
        if self.made is None:
            self.made = np.zeros((self.rows, *made.shape[1:]), made.dtype)
        self.made[start:end] = made

    def _of_one_job(self, rows: Sequence[int]) -> bool:
        """Whether these rows, in order, belong to one job: it fails as a whole, so that nothing is left to find out."""
        ends = accumulate(self._shares)
        return rows[-1] < next(end for end in ends if rows[0] < end)
