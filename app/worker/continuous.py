"""Continuous batching for sequence models: sequences join and leave a running batch between steps.

Knows slots and when a sequence ends; the tensors are the runner's business, turns the queue's. A sequence's tokens are
a function of its job alone: neighbours, arrival and slot change nothing.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from app.engine.jobs import Chunk, Logprob, SequenceJob
from app.worker.dispatch import Mark, unmarked
from app.worker.faults import NOT_FINITE, reason
from app.worker.sequences import IDLE, Row, Steps
from app.worker.slot_queue import SlotQueue

STEPS = 8  # steps of one tick: one copy and one wake-up for all of them
TICK_SECONDS = 0.03  # what a tick should stay under

log = logging.getLogger("genserve.worker")


class Runner(Protocol):
    """What the batcher needs of a model."""

    slots: int
    max_length: int
    step_seconds: float

    def prefill(self, slot: int, prompt: Sequence[int], row: Row) -> Steps: ...  # noqa: D102
    def steps(self, live: Sequence[Row], count: int, interrupted: Callable[[], bool]) -> Steps: ...  # noqa: D102
    def scrub(self, slot: int) -> None: ...  # noqa: D102


@dataclass(slots=True)
class _Sequence:
    """A job with what has come of it so far."""

    number: int
    job: SequenceJob
    arrived: float
    tokens: list[int] = field(default_factory=list)
    sent: int = 0
    suspect: bool = False

    @property
    def request(self) -> int:
        """Whose sequence it is: its own, when the job does not say."""
        return self.job.request or self.number

    @property
    def row(self) -> Row:
        """Where the sequence stands: its last token, not yet read by the network."""
        prefix, done = self.job.prefix, len(self.tokens)
        token = self.tokens[-1] if done else prefix[-1]
        forced = self.job.forced[done:]
        return Row(token, len(prefix) + done - 1, self.job.seed, self.job.sampling, forced)

    @property
    def left(self) -> int:
        return self.job.outputs - len(self.tokens)


@dataclass(frozen=True, slots=True)
class SequenceResult:
    """What one tick made.

    Attributes:
        chunks: one for each sequence that moved.
        seconds: of compute.
        rows: live rows of the steps; 0 for a tick of prefills.
        prefills: prompt tokens read.
        waited: seconds from arrival to slot of each sequence admitted.
        busy: slots in use after the tick.
        limit: of a batch; slots have none.
    """

    chunks: list[Chunk]
    seconds: float
    rows: int
    prefills: int
    waited: list[float]
    busy: int
    limit: int | None = None

    def frame(self, model: str) -> tuple[dict[str, Any], tuple[NDArray[Any], ...]]:
        """The message that carries it."""
        header = {
            "type": "chunks",
            "model": model,
            "chunks": [
                (c.job, c.tokens, [(lp.logprob, lp.top) for lp in c.logprobs], c.finish, c.error) for c in self.chunks
            ],
            "seconds": self.seconds,
            "rows": self.rows,
            "prefills": self.prefills,
            "waited": self.waited,
            "busy": self.busy,
        }
        return header, ()


class ContinuousBatcher:
    """The lane of one sequence model: slots, and a queue before them."""

    exclusive = True

    def __init__(self, runner: Runner, interrupted: Callable[[], bool]) -> None:
        """Start with every slot free; `interrupted` tells, between steps, that other work has arrived."""
        self._runner = runner
        self._interrupted = interrupted
        self._queue = SlotQueue[_Sequence](runner.slots)
        self._suspects: deque[_Sequence] = deque()
        self._slots: list[_Sequence | None] = [None] * runner.slots
        self._soiled: set[int] = set()  # slots whose last sequence failed
        self._step_seconds = runner.step_seconds
        self._prefilled_last = False

    @property
    def waiting(self) -> int:
        """Sequences not yet over."""
        return len(self._queue) + len(self._suspects) + self.busy

    @property
    def busy(self) -> int:
        """Slots in use."""
        return sum(sequence is not None for sequence in self._slots)

    def submit(self, number: int, job: SequenceJob) -> None:
        """Queue a job under its number."""
        self._queue.add(_Sequence(number, job, time.monotonic()))

    def cancel(self, numbers: set[int]) -> None:
        """Forget these jobs, wherever they are; their slots are free at once."""
        self._queue.remove(numbers)
        self._suspects = deque(sequence for sequence in self._suspects if sequence.number not in numbers)
        for slot, sequence in enumerate(self._slots):
            if sequence is not None and sequence.number in numbers:
                self._slots[slot] = None

    def ready(self, running: int) -> bool:
        """Whether a tick would pay; one runs at a time."""
        return running == 0

    def begin(self) -> Callable[[Mark], SequenceResult] | None:
        """What computes one tick; None when all that waited has expired."""
        return self.tick if self.busy or self._upcoming() is not None else None

    def tick(self, mark: Mark = unmarked) -> SequenceResult:
        """Admit what fits, or advance what runs; call only while something waits."""
        start = time.perf_counter()
        if not self.busy or (not self._prefilled_last and self._upcoming() is not None):
            chunks, waited, prefills = self._admit(start, mark)
            self._prefilled_last, rows = True, 0
        else:
            rows, prefills, waited = self.busy, 0, []
            chunks = self._advance(mark)
            self._prefilled_last = False
        seconds = time.perf_counter() - start
        return SequenceResult(chunks, seconds, rows, prefills, waited, self.busy)

    def _upcoming(self) -> _Sequence | None:
        """Who gets a slot now; a suspect runs alone."""
        running = [sequence for sequence in self._slots if sequence is not None]
        if self._suspects:
            return None if running else self._suspects[0]
        if len(running) == len(self._slots) or any(sequence.suspect for sequence in running):
            return None
        return self._queue.upcoming(running)

    def _admit(self, start: float, mark: Mark) -> tuple[list[Chunk], list[float], int]:
        """Give waiting sequences the lowest free slots, for as long as a tick may last."""
        chunks, waited, prefills = [], [], 0
        while (sequence := self._upcoming()) is not None:
            if self._suspects:
                self._suspects.popleft()
            else:
                self._queue.take(sequence)
            waited.append(time.monotonic() - sequence.arrived)
            prefills += len(sequence.job.prefix)
            chunks.append(self._prefill(self._slots.index(None), sequence, mark))
            if time.perf_counter() - start > TICK_SECONDS or self._interrupted():
                break
        return chunks, waited, prefills

    def _prefill(self, slot: int, sequence: _Sequence, mark: Mark) -> Chunk:
        if sequence.job.outputs == 0:
            return Chunk(sequence.number, (), finish="length")
        self._slots[slot] = sequence
        mark(self._numbers())
        if slot in self._soiled:
            self._scrub(slot)
        try:
            steps = self._runner.prefill(slot, sequence.job.prefix, sequence.row)
        except Exception as error:  # noqa: BLE001  # the network may raise anything, and only this job may pay for it
            return self._fail(slot, f"{reason(error)} on the prompt", error)
        return self._extend(slot, steps, 0)

    def _scrub(self, slot: int) -> None:
        """Rid a slot of what a failed sequence may have left: what is not a number passes any mask."""
        try:
            self._runner.scrub(slot)
        except Exception as error:  # noqa: BLE001  # the sequence that comes may well do without
            log.warning("slot %d can't be overwritten: %r", slot, error)
        else:
            self._soiled.discard(slot)

    def _numbers(self) -> list[int]:
        """The jobs in slots: whichever of them a tick concerns, the network's memory holds all."""
        return [sequence.number for sequence in self._slots if sequence is not None]

    def _advance(self, mark: Mark) -> list[Chunk]:
        """A few steps of every busy slot."""
        last = max(slot for slot, sequence in enumerate(self._slots) if sequence is not None)
        rows = [IDLE if sequence is None else sequence.row for sequence in self._slots[: last + 1]]
        busy = [slot for slot in range(last + 1) if self._slots[slot] is not None]
        count = self._steps(busy)
        mark(self._numbers())
        start = time.perf_counter()
        try:
            steps = self._runner.steps(rows, count, self._interrupted)
        except Exception as error:  # noqa: BLE001
            if len(busy) == 1:
                return [self._fail(busy[0], reason(error), error)]
            self._suspect(busy, error)
            return []
        self._step_seconds += 0.2 * ((time.perf_counter() - start) / steps.tokens.shape[1] - self._step_seconds)
        return [self._extend(slot, steps, slot) for slot in busy]

    def _steps(self, busy: list[int]) -> int:
        """So many that the tick stays short, and no more than the longest sequence still needs."""
        longest = max(sequence.left for slot in busy if (sequence := self._slots[slot]) is not None)
        return max(1, min(STEPS, longest, int(TICK_SECONDS / max(self._step_seconds, 1e-6))))

    def _extend(self, slot: int, steps: Steps, row: int) -> Chunk:
        """Add a row's new tokens to the sequence in its slot, and free the slot when that ends it."""
        sequence = self._slots[slot]
        assert sequence is not None
        if not steps.finite[row]:
            return self._fail(slot, NOT_FINITE)
        new = steps.tokens[row].tolist()[: sequence.left]
        finish: Any = None
        for index, token in enumerate(new):
            if len(sequence.tokens) + index >= len(sequence.job.forced) and token in sequence.job.stop_tokens:
                new, finish = new[:index], "stop"
                break
        sequence.tokens += new
        if finish is None and sequence.left == 0:
            finish = "length"
        if finish is not None:
            self._slots[slot] = None
        fresh = len(sequence.tokens) - sequence.sent  # fewer than new ones when a suspect runs again
        logprobs = tuple(steps.logprobs[row][: len(new)]) if steps.logprobs else ()
        return self._chunk(sequence, new, logprobs, fresh, finish)

    def _chunk(
        self, sequence: _Sequence, new: list[int], logprobs: tuple[Logprob, ...], fresh: int, finish: Any
    ) -> Chunk:
        fresh = max(0, min(fresh, len(new)))
        sequence.sent = max(sequence.sent, len(sequence.tokens))
        cut = len(new) - fresh
        return Chunk(sequence.number, tuple(new[cut:]), logprobs[cut:], finish)

    def _fail(self, slot: int, reason: str, error: Exception | None = None) -> Chunk:
        sequence = self._slots[slot]
        assert sequence is not None
        self._slots[slot] = None
        self._soiled.add(slot)
        log.warning("job %d failed alone: %s %r", sequence.number, reason, error)
        return Chunk(sequence.number, (), error=reason)

    def _suspect(self, busy: list[int], error: Exception) -> None:
        """A step of several rows raised: run each again from its start and alone, so that only the culprit fails.

        The same job gives the same tokens, so what was sent already is not sent again.
        """
        log.warning("a step of %d rows raised %r; rerunning them one at a time", len(busy), error)
        for slot in busy:
            sequence = self._slots[slot]
            assert sequence is not None
            sequence.tokens.clear()
            sequence.suspect = True
            self._suspects.append(sequence)
            self._slots[slot] = None
            self._soiled.add(slot)
