"""The lane of what improves latents by gradients: rows that take many steps, a few of them a tick.

Knows rows, steps and what they cost; the tensors are the runner's business. A tick stays short whatever was asked for,
so that a picture is never kept waiting for all steps of a row, and rows come and go between two ticks.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.engine.jobs import Labels, Latents, Part, RefineJob, Rows
from app.worker.batch import Batch
from app.worker.dispatch import Mark
from app.worker.dynamic import SLACK, BatchResult
from app.worker.pace import TICK_SECONDS
from app.worker.turns import Row, Turns


class Stepper(Protocol):
    """What the lane needs of a rule that improves latents; one call of `compute` is one step.

    A row that is computed is its state [S] followed by what stands beside it in this step [A].
    """

    buckets: tuple[int, ...]
    seconds: tuple[float, ...]

    def bucket_for(self, rows: int) -> int: ...  # noqa: D102
    def compute(self, rows: Rows, labels: Labels, /) -> tuple[Rows, NDArray[np.bool_]]: ...  # noqa: D102

    def begin(self, job: RefineJob, index: int) -> NDArray[np.float32]:
        """The state [S] of a row before its first step."""
        ...

    def beside(self, job: RefineJob, index: int, step: int) -> NDArray[np.float32]:
        """What a step is told of a row besides its state, [A]."""
        ...

    def latents(self, states: NDArray[np.float32]) -> Latents:
        """The latents [n, *latent_shape] in states [n, S]."""
        ...


class RefiningBatcher:
    """Rows in turns, each of them until its steps are made."""

    exclusive = True  # rows keep their state between ticks

    def __init__(self, runner: Stepper) -> None:
        """Start empty."""
        self._runner = runner
        self._seconds = dict(zip(runner.buckets, runner.seconds, strict=True))
        self._turns = Turns()

    @property
    def waiting(self) -> int:
        """Rows that want further steps."""
        return self._turns.rows

    def submit(self, number: int, job: RefineJob) -> None:
        """Queue a job under its number."""
        now = time.monotonic()
        self._turns.add([Row(number, job, i, self._runner.begin(job, i), now) for i in range(job.rows)])

    def cancel(self, numbers: set[int]) -> None:
        """Forget the rows of these jobs."""
        self._turns.remove(numbers)

    def bound(self, rows: int) -> bool:
        """Step no more rows at once than this, one of the exact sizes; whether there were larger ones."""
        kept = {size: seconds for size, seconds in self._seconds.items() if size <= rows}
        lower = len(kept) < len(self._seconds)
        self._seconds = kept
        return lower

    def ready(self, running: int) -> bool:
        """Whether a tick would pay; none runs beside another."""
        return running == 0

    def begin(self) -> Callable[[Mark], BatchResult] | None:
        """Take the rows of one tick; what this returns computes it, in any thread. None when all have expired."""
        rows = self._turns.take(self._most_rows())
        return partial(self._compute, rows) if rows else None

    def _most_rows(self) -> int:
        """The largest of the sizes that cost about least a row and whose step is no longer than a tick should be."""
        short = {size: seconds for size, seconds in self._seconds.items() if seconds <= TICK_SECONDS}
        if not short:
            return min(self._seconds)
        costs = {size: seconds / min(size, max(1, self._turns.rows)) for size, seconds in short.items()}
        return max(size for size, cost in costs.items() if cost <= SLACK * min(costs.values()))

    def _compute(self, rows: list[Row], mark: Mark) -> BatchResult:
        tick = _Tick(self._runner, sorted(rows, key=lambda row: row.number))
        mark([row.number for row in tick.rows])
        start = time.perf_counter()
        for _ in range(self._steps(rows)):
            tick.step()
        seconds = time.perf_counter() - start
        self._turns.put_back([row for row in tick.rows if row.left])
        return tick.result(seconds)

    def _steps(self, rows: Sequence[Row]) -> int:
        """So many that the tick stays short, and no more than the row that is nearest its end still needs."""
        seconds = self._seconds[self._runner.bucket_for(len(rows))]
        return max(1, min(int(TICK_SECONDS / max(seconds, 1e-6)), min(row.left for row in rows)))


class _Tick:
    """The rows of one tick, step by step; those of one job stand together."""

    def __init__(self, runner: Stepper, rows: list[Row]) -> None:
        self._runner = runner
        self.rows = rows
        self._failed: list[tuple[Row, str]] = []
        self._count, self._stepped, self._padding = len(rows), 0, 0
        self._limit: int | None = None
        now = time.monotonic()
        for row in rows:
            if not row.done:
                row.waited = now - row.arrived

    def step(self) -> None:
        """Move every row by one step; those that fail are in no further one."""
        if not self.rows:
            return
        batch = self._batch()
        batch.compute()
        self._limit = batch.limit if self._limit is None else self._limit
        self._stepped += batch.rows
        self._padding += batch.padding
        self._failed += [(self.rows[i], why) for i, why in sorted(batch.errors.items())]
        kept = [(row, i) for i, row in enumerate(self.rows) if i not in batch.errors]
        for row, i in kept:
            assert batch.made is not None
            row.state, row.done = batch.made[i], row.done + 1
        self.rows = [row for row, _ in kept]

    def _batch(self) -> Batch:
        runner, rows = self._runner, self.rows
        inputs = np.stack([np.append(row.state, runner.beside(row.job, row.index, row.done)) for row in rows])
        labels = np.array([row.job.labels[row.index] for row in rows])
        numbers = [row.number for row in rows]
        shares = [numbers.count(number) for number in dict.fromkeys(numbers)]
        return Batch(runner, inputs, labels, shares)

    def result(self, seconds: float) -> BatchResult:
        """The rows that are done, and those that have failed."""
        done = [row for row in self.rows if not row.left]
        parts = [Part(row.number, row.index, 1) for row in done]
        parts += [Part(row.number, row.index, 1, why) for row, why in self._failed]
        waited = [row.waited for row in done] + [row.waited for row, _ in self._failed]
        made = self._runner.latents(np.stack([row.state for row in done])) if done else np.zeros(0, np.float32)
        return BatchResult(parts, waited, made, self._count, self._padding, seconds, self._limit, stepped=self._stepped)
