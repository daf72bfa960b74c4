"""Dynamic batching for latent models: the next batch is formed the moment the device is free, from whatever waits.

Knows batch sizes and what they cost; the tensors are the runner's business, turns the queue's, whose rows fail the
batch's. No timer: a lone row is computed at once, and rows that arrive meanwhile make the next batch.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.jobs import LatentJob, Part, Rows
from app.worker.batch import Batch, Runner
from app.worker.dispatch import Mark
from app.worker.row_queue import RowQueue, Slice

SLACK = 1.1  # a batch may cost so much more a row than the cheapest would: less than a measurement errs by
OVERLAP_ROWS = 8  # above so many waiting rows, half of them are left for the next batch
BESIDE_SECONDS = 0.004  # so much waiting compute makes a second thread pay: below, it only takes HTTP's core


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
        stepped: steps of rows, where a row takes many of them; 0 where it takes one.
    """

    parts: list[Part]
    waited: list[float]
    made: Rows
    rows: int
    padding: int
    seconds: float
    limit: int | None = None
    stepped: int = 0

    def frame(self, model: str) -> tuple[dict[str, Any], tuple[NDArray[Any], ...]]:
        """The message that carries it."""
        header = {
            "type": "batch",
            "model": model,
            "parts": [(part.job, part.offset, part.count, part.error) for part in self.parts],
            "waited": self.waited,
            "rows": self.rows,
            "work": self.stepped or self.rows,
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
        inputs = np.concatenate([s.job.inputs[s.start : s.start + s.rows] for s in slices])
        labels = np.concatenate([s.job.labels[s.start : s.start + s.rows] for s in slices])
        batch = Batch(self._runner, inputs, labels, [piece.rows for piece in slices])
        mark([piece.number for piece in slices])
        start = time.perf_counter()
        batch.compute()
        return _result(batch, slices, time.perf_counter() - start)

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


def _result(batch: Batch, slices: list[Slice], seconds: float) -> BatchResult:
    """What has come of the rows; a job's slice fails with any row of its own."""
    parts, good, row = [], [], 0
    for piece in slices:
        rows = range(row, row + piece.rows)
        error = next((batch.errors[r] for r in rows if r in batch.errors), None) if batch.errors else None
        parts.append(Part(piece.number, piece.start, piece.rows, error))
        if error is None:
            good.append(slice(row, row + piece.rows))
        row += piece.rows
    waited = [piece.waited for piece in slices]
    return BatchResult(parts, waited, _good(batch.made, good), batch.rows, batch.padding, seconds, batch.limit)


def _good(made: Rows | None, good: list[slice]) -> Rows:
    """What was made of the slices that are good, in order."""
    if made is None or not good:
        return np.zeros((0, 0, 0, 0), np.uint8)
    if sum(rows.stop - rows.start for rows in good) == len(made):
        return made
    return np.concatenate([made[rows] for rows in good])
