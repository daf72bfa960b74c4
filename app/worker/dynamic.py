"""Dynamic batching for latent models: the next batch is formed the moment the device is free, from whatever waits.

Knows batch sizes and what they cost, and whose rows fail; the tensors are the runner's business, turns the queue's. No
timer: a lone row is computed at once, and rows that arrive meanwhile make the next batch.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from app.engine.jobs import Labels, LatentJob, Part, Rows
from app.worker.dispatch import Mark
from app.worker.faults import NOT_FINITE, reason
from app.worker.row_queue import RowQueue, Slice

SLACK = 1.1  # a batch may cost so much more a row than the cheapest would: less than a measurement errs by
OVERLAP_ROWS = 8  # above so many waiting rows, half of them are left for the next batch
BESIDE_SECONDS = 0.004  # so much waiting compute makes a second thread pay: below, it only takes HTTP's core

log = logging.getLogger("genserve.worker")


class Runner(Protocol):
    """What the batcher needs of a model, or of its encoder."""

    buckets: tuple[int, ...]
    seconds: tuple[float, ...]

    def bucket_for(self, rows: int) -> int: ...  # noqa: D102
    def compute(self, rows: Rows, labels: Labels, /) -> tuple[Rows, NDArray[np.bool_]]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What one tick made.

    Attributes:
        parts: one a slice; a failed part has made nothing.
        waited: seconds from arrival to compute of each part.
        made: pictures or latents [rows of the good parts in order, ...].
        rows: rows that the batch held.
        padding: rows computed beyond those.
        seconds: of compute.
        limit: the largest batch size that fits, when this one ran out of memory.
    """

    parts: list[Part]
    waited: list[float]
    made: Rows
    rows: int
    padding: int
    seconds: float
    limit: int | None = None

    def frame(self, model: str) -> tuple[dict[str, Any], tuple[NDArray[Any], ...]]:
        """The message that carries it."""
        header = {
            "type": "batch",
            "model": model,
            "parts": [(part.job, part.offset, part.count, part.error) for part in self.parts],
            "waited": self.waited,
            "rows": self.rows,
            "padding": self.padding,
            "seconds": self.seconds,
        }
        return header, (self.made,)


class DynamicBatcher:
    """The lane of one latent model, or of its encoder: a queue of jobs, served in turns of a few rows."""

    exclusive = False

    def __init__(self, runner: Runner, *, alone: bool = False) -> None:
        """Start empty; `alone` when one batch takes all threads of the device."""
        self._runner = runner
        self._alone = alone
        self._seconds = dict(zip(runner.buckets, runner.seconds, strict=True))
        self._row_seconds = min(seconds / size for size, seconds in self._seconds.items())
        self._queue = RowQueue()

    @property
    def waiting(self) -> int:
        """Rows not yet computed."""
        return self._queue.rows

    def submit(self, number: int, job: LatentJob) -> None:
        """Queue a job under its number."""
        self._queue.add(number, job)

    def cancel(self, numbers: set[int]) -> None:
        """Forget the queued rows of these jobs."""
        self._queue.remove(numbers)

    def bound(self, rows: int) -> bool:
        """Make no batch larger than this size, one of the exact ones; whether there were larger ones."""
        kept = {size: seconds for size, seconds in self._seconds.items() if size <= rows}
        lower = len(kept) < len(self._seconds)
        self._seconds = kept
        self._row_seconds = min(seconds / size for size, seconds in kept.items())
        return lower

    def ready(self, running: int) -> bool:
        """Whether another batch beside so many running ones would pay."""
        return running == 0 or (not self._alone and self._queue.rows * self._row_seconds >= BESIDE_SECONDS)

    def begin(self) -> Callable[[Mark], BatchResult] | None:
        """Take the rows of one batch; what this returns computes it, in any thread. None when all have expired."""
        slices = self._queue.take(self._batch_rows())
        return partial(self._compute, slices) if slices else None

    def _compute(self, slices: list[Slice], mark: Mark) -> BatchResult:
        batch = _Batch(self._runner, slices)
        mark([piece.number for piece in slices])
        start = time.perf_counter()
        batch.compute(0, batch.rows)
        return batch.result(time.perf_counter() - start)

    def _batch_rows(self) -> int:
        """All that waits, or half, so that one half is computed while the other is answered; little of it padding.

        Of all sizes, the largest of those that cost about least for each row that waits: eleven rows are better
        computed as eight, with three left for the next batch, than padded to sixteen. On a CPU large batches fall out
        of its caches and cost more a row; on a GPU the largest is the cheapest.
        """
        waiting = self._queue.rows
        if waiting > OVERLAP_ROWS:
            waiting = max(OVERLAP_ROWS, (waiting + 1) // 2)
        costs = {size: seconds / min(size, waiting) for size, seconds in self._seconds.items()}
        least = min(costs.values())
        return min(waiting, max(size for size, cost in costs.items() if cost <= SLACK * least))


class _Batch:
    """The rows of one tick while they are computed: all at once, or by halves where that fails.

    Every size that they are computed in is exact, so a row that succeeds has the bytes that it would have had alone.
    """

    def __init__(self, runner: Runner, slices: list[Slice]) -> None:
        self._runner = runner
        self._slices = slices
        self._inputs = np.concatenate([s.job.inputs[s.start : s.start + s.rows] for s in slices])
        self._labels = np.concatenate([s.job.labels[s.start : s.start + s.rows] for s in slices])
        self.rows = len(self._labels)
        self._made: Rows | None = None
        self._errors: dict[int, str] = {}  # by row
        self._computed: list[int] = []  # how many rows at once
        self._too_many: list[int] = []  # likewise, where memory ran out

    def compute(self, start: int, end: int) -> None:
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
            self._errors.update(dict.fromkeys(bad, why))
            return
        middle = (start + end) // 2
        self.compute(start, middle)
        self.compute(middle, end)

    def result(self, seconds: float) -> BatchResult:
        """What has come of the rows; a job's slice fails with any row of its own."""
        parts, good, row = [], [], 0
        for piece in self._slices:
            rows = range(row, row + piece.rows)
            error = next((self._errors[r] for r in rows if r in self._errors), None) if self._errors else None
            parts.append(Part(piece.number, piece.start, piece.rows, error))
            if error is None:
                good.append(slice(row, row + piece.rows))
            row += piece.rows
        padding = self._runner.bucket_for(self.rows) - self.rows
        waited = [piece.waited for piece in self._slices]
        return BatchResult(parts, waited, self._good(good), self.rows, padding, seconds, self._limit())

    def _limit(self) -> int | None:
        """The largest size that did fit, below all that did not.

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
            self._made = made
            return
        if self._made is None:
            self._made = np.zeros((self.rows, *made.shape[1:]), made.dtype)
        self._made[start:end] = made

    def _of_one_job(self, rows: Sequence[int]) -> bool:
        """Whether these rows, in order, belong to one job: it fails as a whole, so that nothing is left to find out."""
        ends = accumulate(piece.rows for piece in self._slices)
        return rows[-1] < next(end for end in ends if rows[0] < end)

    def _good(self, good: list[slice]) -> Rows:
        if self._made is None or not good:
            return np.zeros((0, 0, 0, 0), np.uint8)
        if len(good) == len(self._slices):
            return self._made
        return np.concatenate([self._made[rows] for rows in good])
