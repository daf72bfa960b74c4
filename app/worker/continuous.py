"""Continuous batching for sequence models: sequences join and leave a running batch between steps.

Knows what is computed next, and what is done when it fails; the tensors are the runner's business, turns the queue's. A
sequence's tokens are a function of its job alone: neighbours, arrival, slot and what it could take over change nothing.

Ticks of prompts and ticks of steps take turns, and a prompt is read in pieces, so that a long one never holds up those
who run. While others run, a tick reads as many tokens as take about as long as a step or two; else more.
"""

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from app.engine.jobs import Chunk, SequenceJob
from app.worker.arrivals import Arrivals
from app.worker.dispatch import Mark, unmarked
from app.worker.drawing import Steps
from app.worker.faults import NOT_FINITE, reason
from app.worker.grammars import GrammarRefused, Grammars
from app.worker.pace import CALL_TOKENS, STEPS, Pace
from app.worker.pieces import Piece
from app.worker.progress import Progress
from app.worker.row import Row
from app.worker.sequence_result import SequenceResult
from app.worker.slots import Memory, Slots

log = logging.getLogger("genserve.worker")


class Runner(Memory, Protocol):
    """What the batcher needs of a model."""

    max_length: int
    keeps: bool
    packs_from: int
    step_seconds: float
    token_seconds: float

    def read(self, pieces: Sequence[Piece]) -> Steps: ...  # noqa: D102
    def steps(self, live: Sequence[Row | None], count: int, interrupted: Callable[[], bool]) -> Steps: ...  # noqa: D102


def _nobody() -> None:
    """Wakes nobody: whoever runs this batcher asks it again by itself."""


class ContinuousBatcher:
    """The lane of one sequence model: slots, and the way to them.

    Attributes:
        exclusive: one tick runs at a time.
        wake: called, from any thread, when there is something to do that nobody submitted: a grammar was compiled.
    """

    exclusive = True

    def __init__(
        self,
        runner: Runner,
        interrupted: Callable[[], bool],
        grammars: Grammars | None = None,
        most_steps: int = STEPS,
    ) -> None:
        """Start with every slot free.

        Args:
            runner: of the model.
            interrupted: tells, between steps, that other work has arrived.
            grammars: of the model's vocabulary; None when its texts can't be constrained.
            most_steps: of one tick.
        """
        self._runner = runner
        self._interrupted = interrupted
        self.wake: Callable[[], None] = _nobody
        self._grammars = grammars
        self._arrivals = Arrivals(runner.slots, grammars, lambda: self.wake())
        self._slots = Slots(runner)
        self._pace = Pace(runner.step_seconds, runner.token_seconds, most_steps)
        self._turns = itertools.count(1)
        self._read_last = False

    @property
    def waiting(self) -> int:
        """Sequences not yet over."""
        return len(self._arrivals) + self.busy

    @property
    def busy(self) -> int:
        """Slots in use."""
        return len(self._slots.running)

    def warm_up(self) -> None:
        """Do beside the first requests what would hold up later ones."""
        if self._grammars is not None:
            self._grammars.warm_up()

    def close(self) -> None:
        """No job will come any more."""
        if self._grammars is not None:
            self._grammars.close()

    def submit(self, number: int, job: SequenceJob) -> None:
        """Queue a job under its number."""
        self._arrivals.add(Progress(number, job, time.monotonic()))

    def cancel(self, numbers: set[int]) -> None:
        """Forget these jobs, wherever they are; their slots are free at once."""
        self._arrivals.remove(numbers)
        self._slots.remove(numbers)

    def ready(self, running: int) -> bool:
        """Whether a tick would pay; one runs at a time."""
        return running == 0 and (self.busy > 0 or self._arrivals.ready)

    def begin(self) -> Callable[[Mark], SequenceResult] | None:
        """What computes one tick; None when all that waited has expired."""
        self._arrivals.settle()
        return self.tick if self.busy or self._arrivals.has_ended or self._upcoming() is not None else None

    def tick(self, mark: Mark = unmarked) -> SequenceResult:
        """Read some of the prompts, or advance what runs; call only while something waits."""
        start = time.perf_counter()
        chunks, waited = self._arrivals.ended(), list[float]()
        rows = read = reused = 0
        self._read_last = self._wants_to_read() and not (self._read_last and self._slots.decoding)
        if self._read_last:
            more, waited, read, reused = self._read(mark)
            chunks += more
        elif rows := len(self._slots.decoding):
            chunks += self._advance(mark)
        seconds = time.perf_counter() - start
        return SequenceResult(chunks, seconds, rows, read, reused, waited, self.busy)

    def _wants_to_read(self) -> bool:
        """Whether somebody waits for a first token who can have it now."""
        return bool(self._slots.reading) or self._upcoming() is not None

    def _upcoming(self) -> Progress | None:
        """Who gets a slot now."""
        return self._arrivals.upcoming(self._slots.running, self._slots.free)

    def _numbers(self) -> list[int]:
        """The jobs in slots: whichever of them a tick concerns, the network's memory holds all."""
        return [sequence.number for sequence in self._slots.running]

    # prompts

    def _read(self, mark: Mark) -> tuple[list[Chunk], list[float], int, int]:
        """Read pieces of prompts until the tick has enough of them.

        Returns:
            What has come of it, the seconds that each newcomer waited, and how many tokens were read and taken over.
        """
        chunks, waited = list[Chunk](), list[float]()
        read = reused = 0
        enough = self._pace.tokens(alone=not self._slots.decoding)
        while read < enough or not self._may_pause():
            waited += self._admit() if read < enough else []
            if not self._slots.reading:
                break
            mark(self._numbers())
            reused += self._slots.begin()
            more, tokens = self._read_pieces([self._slots[slot].piece(slot) for slot in self._batch(enough - read)])
            chunks, read = chunks + more, read + tokens
            if self._interrupted() and self._may_pause():
                break
        return chunks, waited, read, reused

    def _admit(self) -> list[float]:
        """Give waiting sequences free slots; the seconds that each has waited."""
        waited = []
        while (sequence := self._upcoming()) is not None:
            waited.append(self._arrivals.take(sequence))
            sequence.turn = next(self._turns)
            self._slots.place(sequence)
        return waited

    def _may_pause(self) -> bool:
        """Whether steps may be made now: those of a model that keeps no positions would change what was half read."""
        return self._runner.keeps or not any(self._slots[slot].read for slot in self._slots.reading)

    def _batch(self, tokens: int) -> list[int]:
        """Slots whose next pieces are read in one call: those whose last turn is the longest ago, one at least."""
        batch, tokens = list[int](), max(tokens, CALL_TOKENS)
        for slot in sorted((slot for slot in self._slots.reading if self._slots[slot].begun), key=self._turn):
            sequence = self._slots[slot]
            lonely = sequence.alone or 0 < sequence.piece_length < self._runner.packs_from
            if batch and (lonely or sequence.piece_length > tokens):
                continue
            batch.append(slot)
            tokens -= sequence.piece_length
            if lonely:
                break
        return batch

    def _turn(self, slot: int) -> tuple[bool, int]:
        """Who is next; what can't be left half read is gone on with first."""
        sequence = self._slots[slot]
        return self._runner.keeps or not sequence.read, sequence.turn

    def _read_pieces(self, pieces: list[Piece]) -> tuple[list[Chunk], int]:
        """Read pieces in one call, and go on with those whose prompts are at their end; how many tokens were read."""
        start = time.perf_counter()
        try:
            steps = self._runner.read(pieces)
        except Exception as error:  # noqa: BLE001  # the network may raise anything, and only the culprit may pay for it
            return self._read_failed(pieces, error), 0
        tokens = sum(piece.length for piece in pieces)
        self._pace.learn_tokens(time.perf_counter() - start, tokens)
        for piece in pieces:
            sequence = self._slots[piece.slot]
            sequence.read, sequence.turn = piece.end, next(self._turns)
            self._slots.remember(piece)
        ends = [piece.slot for piece in pieces if piece.row is not None]
        return [self._extend(slot, steps, row) for row, slot in enumerate(ends)], tokens

    def _read_failed(self, pieces: list[Piece], error: Exception) -> list[Chunk]:
        """One piece that raised fails its job; of several, each is read again without company."""
        if len(pieces) == 1:
            return [self._fail(pieces[0].slot, f"{reason(error)} on the prompt", error)]
        log.warning("reading %d prompts raised %r; reading them one at a time", len(pieces), error)
        for piece in pieces:
            sequence = self._slots[piece.slot]
            sequence.alone = True
            sequence.read = sequence.read if self._runner.keeps else 0
        return []

    # steps

    def _advance(self, mark: Mark) -> list[Chunk]:
        """A few steps of every slot whose prompt has been read."""
        decoding = self._slots.decoding
        rows: list[Row | None] = [None] * (decoding[-1] + 1)
        for slot in decoding:
            rows[slot] = self._slots[slot].row
        mark(self._numbers())
        start = time.perf_counter()
        try:
            steps = self._runner.steps(rows, self._steps(decoding), self._interrupted)
        except Exception as error:  # noqa: BLE001
            return self._step_failed(error)
        self._pace.learn_steps(time.perf_counter() - start, steps.tokens.shape[1])
        return [self._extend(slot, steps, slot) for slot in decoding]

    def _steps(self, decoding: list[int]) -> int:
        """One when a grammar has to be asked after each; fewer while somebody waits for a first token."""
        sequences = [self._slots[slot] for slot in decoding]
        if any(sequence.constraint is not None for sequence in sequences):
            return 1
        return self._pace.steps(max(sequence.left for sequence in sequences), hurried=self._wants_to_read())

    def _step_failed(self, error: Exception) -> list[Chunk]:
        """A step raised: run each sequence again from its start and alone, so that only the culprit fails.

        The same job gives the same tokens, so what was sent already is not sent again.
        """
        running, company = self._slots.soil_all()
        if not company:
            return [_failure(running[0], reason(error), error)]
        log.warning("a step of %d sequences raised %r; rerunning them one at a time", len(running), error)
        self._arrivals.suspect(running)
        return []

    def _extend(self, slot: int, steps: Steps, row: int) -> Chunk:
        """Add a row's new tokens to the sequence in its slot, and free the slot when that ends it."""
        sequence = self._slots[slot]
        if not steps.finite[row]:
            return self._fail(slot, NOT_FINITE)
        try:
            chunk = sequence.extend(steps.tokens[row].tolist(), steps.logprobs[row] if steps.logprobs else [])
        except GrammarRefused as refusal:
            self._slots.release(slot)
            return Chunk(sequence.number, (), refused=str(refusal))
        except ValueError as error:
            return self._fail(slot, reason(error), error)
        if chunk.finish is not None:
            self._slots.release(slot)
        return chunk

    def _fail(self, slot: int, reason: str, error: Exception | None = None) -> Chunk:
        sequence = self._slots[slot]
        self._slots.soil(slot)
        return _failure(sequence, reason, error)


def _failure(sequence: Progress, reason: str, error: Exception | None) -> Chunk:
    log.warning("job %d failed alone: %s %r", sequence.number, reason, error)
    return Chunk(sequence.number, (), error=reason)
