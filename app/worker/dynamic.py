"""Dynamic batching for latent models: the next batch is formed the moment the device is free, from whatever waits.

Knows rows, jobs and fairness; the tensors are the runner's business. No timer: a lone row is computed at once, and rows
that arrive meanwhile make the next batch.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from app.engine.jobs import LatentJob, Part, Pictures

TURN_ROWS = 8  # rows that a job may put into a batch before the next job has its turn
SLACK = 1.1  # a batch may cost so much more a row than the cheapest would: less than a measurement errs by
OVERLAP_ROWS = 8  # above so many waiting rows, half of them are left for the next batch
BESIDE_SECONDS = 0.004  # so much waiting compute makes a second thread pay: below, it only takes HTTP's core

log = logging.getLogger("genserve.worker")


class Runner(Protocol):
    """What the batcher needs of a model."""

    buckets: tuple[int, ...]
    seconds: tuple[float, ...]

    def bucket_for(self, rows: int) -> int: ...  # noqa: D102
    def decode(  # noqa: D102
        self, latents: NDArray[np.float32], labels: NDArray[np.int64], /
    ) -> tuple[Pictures, NDArray[np.bool_]]: ...


@dataclass(slots=True)
class _Waiting:
    number: int
    job: LatentJob
    arrived: float
    next_row: int = 0

    @property
    def left(self) -> int:
        return self.job.rows - self.next_row


@dataclass(frozen=True, slots=True)
class Slice:
    """Some consecutive rows of a job that go into one batch."""

    number: int
    job: LatentJob
    start: int
    count: int
    waited: float


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What one tick made.

    Attributes:
        parts: one a slice; a failed part has no pictures.
        waited: seconds from arrival to compute of each part.
        pictures: [rows of the good parts in order, H, W, C].
        rows: rows that the batch held.
        padding: rows computed beyond those.
        seconds: of compute.
    """

    parts: list[Part]
    waited: list[float]
    pictures: Pictures
    rows: int
    padding: int
    seconds: float

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
        return header, (self.pictures,)


class DynamicBatcher:
    """The lane of one latent model: a queue of jobs, served in turns of a few rows."""

    exclusive = False

    def __init__(self, runner: Runner, *, alone: bool = False) -> None:
        """Start empty; `alone` when one batch takes all threads of the device."""
        self._runner = runner
        self._alone = alone
        self._seconds = dict(zip(runner.buckets, runner.seconds, strict=True))
        self._row_seconds = min(seconds / size for size, seconds in self._seconds.items())
        self._queue = OrderedDict[int, _Waiting]()  # by number: a departed job is found at once, however long it is
        self._waiting_rows = 0

    @property
    def waiting(self) -> int:
        """Rows not yet computed."""
        return self._waiting_rows

    def submit(self, number: int, job: LatentJob) -> None:
        """Queue a job under its number."""
        self._queue[number] = _Waiting(number, job, time.monotonic())
        self._waiting_rows += job.rows

    def cancel(self, numbers: set[int]) -> None:
        """Forget the queued rows of these jobs."""
        for number in numbers:
            if (waiting := self._queue.pop(number, None)) is not None:
                self._waiting_rows -= waiting.left

    def ready(self, running: int) -> bool:
        """Whether another batch beside so many running ones would pay."""
        return running == 0 or (not self._alone and self._waiting_rows * self._row_seconds >= BESIDE_SECONDS)

    def begin(self) -> Callable[[], BatchResult]:
        """Take the rows of one batch; what this returns computes it, in any thread. Call only while rows wait."""
        slices = self._take(self._batch_rows())
        return lambda: self._compute(slices)

    def _compute(self, slices: list[Slice]) -> BatchResult:
        latents = np.concatenate([s.job.latents[s.start : s.start + s.count] for s in slices])
        labels = np.concatenate([s.job.labels[s.start : s.start + s.count] for s in slices])
        start = time.perf_counter()
        pictures, errors = self._decode(latents, labels)
        seconds = time.perf_counter() - start
        return _result(slices, pictures, errors, self._runner.bucket_for(len(labels)) - len(labels), seconds)

    def _batch_rows(self) -> int:
        """All that waits, or half, so that one half is computed while the other is answered; little of it padding.

        Of all sizes, the largest of those that cost about least for each row that waits: eleven rows are better
        computed as eight, with three left for the next batch, than padded to sixteen. On a CPU large batches fall out
        of its caches and cost more a row; on a GPU the largest is the cheapest.
        """
        waiting = self._waiting_rows
        if waiting > OVERLAP_ROWS:
            waiting = max(OVERLAP_ROWS, (waiting + 1) // 2)
        costs = {size: seconds / min(size, waiting) for size, seconds in self._seconds.items()}
        least = min(costs.values())
        return min(waiting, max(size for size, cost in costs.items() if cost <= SLACK * least))

    def _take(self, limit: int) -> list[Slice]:
        """Take rows from the queue in turns: a job of 64 rows does not hold up the jobs behind it."""
        now, taken = time.monotonic(), dict[int, int]()
        owners: dict[int, _Waiting] = {}
        room = limit
        while room and self._queue:
            _, waiting = self._queue.popitem(last=False)
            count = min(TURN_ROWS, room, waiting.left - taken.get(waiting.number, 0))
            taken[waiting.number] = taken.get(waiting.number, 0) + count
            owners[waiting.number] = waiting
            room -= count
            if waiting.left > taken[waiting.number]:
                self._queue[waiting.number] = waiting
        slices = []
        for number, count in taken.items():
            waiting = owners[number]
            slices.append(Slice(number, waiting.job, waiting.next_row, count, now - waiting.arrived))
            waiting.next_row += count
        self._waiting_rows -= limit - room
        return slices

    def _decode(
        self, latents: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> tuple[Pictures | None, list[str | None]]:
        """Pictures and error of each row; a batch that raises is rerun by halves, so that only the culprit fails."""
        try:
            pictures, finite = self._runner.decode(latents, labels)
        except Exception as error:  # noqa: BLE001  # the network may raise anything, and only this row may pay for it
            if len(labels) == 1:
                log.warning("a row failed alone: %r", error)
                return None, [f"the model raised {type(error).__name__}"]
            middle = len(labels) // 2
            first, first_errors = self._decode(latents[:middle], labels[:middle])
            second, second_errors = self._decode(latents[middle:], labels[middle:])
            return _joined(first, middle, second, len(labels) - middle), first_errors + second_errors
        return pictures, [None if good else "the model's output is not finite" for good in finite]


def _joined(first: Pictures | None, first_rows: int, second: Pictures | None, second_rows: int) -> Pictures | None:
    """Two halves as one array; a half that failed whole is filled with zeros that nobody will see."""
    known = first if first is not None else second
    if known is None:
        return None
    halves = ((first, first_rows), (second, second_rows))
    return np.concatenate([np.zeros((n, *known.shape[1:]), np.uint8) if h is None else h for h, n in halves])


def _result(
    slices: list[Slice], pictures: Pictures | None, errors: list[str | None], padding: int, seconds: float
) -> BatchResult:
    parts, good, row = [], [], 0
    for piece in slices:
        end = row + piece.count
        error = next((e for e in errors[row:end] if e is not None), None)
        parts.append(Part(piece.number, piece.start, piece.count, error))
        if error is None:
            good.append(slice(row, end))
        row = end
    if pictures is None or not good:
        kept = np.zeros((0, 0, 0, 0), np.uint8)
    elif len(good) == len(slices):
        kept = pictures
    else:
        kept = np.concatenate([pictures[rows] for rows in good])
    return BatchResult(parts, [s.waited for s in slices], kept, row, padding, seconds)
