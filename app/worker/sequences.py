"""Runs one sequence model on the device: slots, pieces of prompts, and several sampled steps for one copy back.

Knows tensors, the model's state and which row counts and spans are exact; holds no policy: who gets a slot and when it
ends is the batcher's business.
"""

import bisect
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from app.engine.jobs import Sampling
from app.worker.device import tell_apart
from app.worker.drawing import NOTHING, Drawing, Steps
from app.worker.exactness import find_exact, prefill
from app.worker.pieces import CHUNK, Piece, Tokens, piece_end
from app.worker.row import Row
from app.worker.runner import ModelFault
from app.worker.tally import Tally
from app.worker.threads import on_threads
from models.protocols import ConditionedModel, PrefixModel, SequenceModel

T = TypeVar("T")


class SequenceRunner:
    """One network with its slots.

    Attributes:
        slots: how many sequences run at once.
        keeps: whether slots keep what they read by position, so that prompts can be left half read.
        shares: whether they can be taken over too: what was told besides tokens is part of what was read.
        condition_length: most numbers that a sequence may be told besides tokens.
        buckets: row counts that give every row the same bits as all slots at once, ascending.
        spans: prefix lengths likewise, ascending; the last is the model's max_length.
        packs_from: tokens of the shortest piece that may be read in one call with others.
        step_seconds: of one step at the largest bucket, measured at warm-up.
        token_seconds: of one token of a whole piece, likewise.
        state_bytes: memory behind all slots.
    """

    def __init__(self, model: SequenceModel[Any], device: torch.device, slots: int, threads: int = 1) -> None:
        """Find out what is exact, allocate the state of all slots, and measure.

        `threads` compute one step together, on a CPU.

        Raises:
            ModelFault: the network raises, or its output is not [R, vocab_size].
        """
        self._model, self._device, self._threads = model, device, threads
        self.vocab_size, self.max_length = model.vocab_size, model.max_length
        self.keeps = isinstance(model, PrefixModel)
        self.condition_length = model.condition_length if isinstance(model, ConditionedModel) else 0
        self.shares = self.keeps and not self.condition_length
        try:
            on_threads(threads, lambda: self._warm_up(slots))
        except (RuntimeError, IndexError, ValueError, TypeError, MemoryError) as error:
            raise ModelFault(f"the warm-up of the sequence model failed: {error}") from error

    @torch.inference_mode()
    def _warm_up(self, slots: int) -> None:
        exact = find_exact(self._model, self._device, slots)
        self.slots, self.buckets, self.spans = exact.slots, exact.buckets, exact.spans
        self.packs_from = exact.packs_from
        self._allocate()
        self.token_seconds, self.step_seconds = self._measure_piece(), self._measure_step()
        self._allocate()

    def _allocate(self) -> None:
        self._state: object = None  # two of them may be more than there is memory for
        self._state = self._model.init_state(self.slots)
        self.state_bytes = state_bytes(self._state)
        self._tally = Tally(self.slots, self.vocab_size, self._device)
        self._last: Tensor | None = None  # [slots, V], logits after the last piece that each slot has read
        self._kept = np.zeros(self.slots, np.int64)  # positions of each slot that must not be lost
        self._written = np.zeros(self.slots, np.int64)  # positions that may hold anything but zeros

    def bucket_for(self, rows: int) -> int:
        """The smallest exact row count that holds so many rows."""
        return self.buckets[bisect.bisect_left(self.buckets, rows)]

    def span_for(self, reach: int) -> int:
        """The shortest exact prefix that holds so many positions."""
        return self.spans[bisect.bisect_left(self.spans, min(reach, self.max_length))]

    def read(self, pieces: Sequence[Piece]) -> Steps:
        """Read pieces of several prompts in one call, and give the first token after each prompt that is at its end.

        A piece without tokens is one whose slot has taken over all of its prompt.

        Returns:
            One row and step for each piece that has a `row`, in their order.

        Raises:
            MemoryError: there was not enough.
            DeviceLost: no call to the device will succeed any more.
            Exception: whatever the network raises.
        """
        return self._on_device(lambda: self._read(pieces))

    def steps(self, live: Sequence[Row | None], count: int, interrupted: Callable[[], bool]) -> Steps:
        """Advance rows 0..R-1 by `count` steps, or by fewer when interrupted; None is a row with nothing to advance.

        Raises:
            MemoryError, DeviceLost, Exception: as in `read`.
        """
        return self._on_device(lambda: self._advance(live, count, interrupted))

    def take_over(self, source: int, target: int, length: int) -> None:
        """Make the first positions of one slot those of another, and the logits after its last piece too.

        A slot may take over from itself: then it keeps no more than these.

        Raises:
            MemoryError, DeviceLost, Exception: as in `read`.
        """
        if source != target:
            self._on_device(lambda: self._copy(source, target, length))
        self._kept[target] = length
        self._written[target] = max(self._written[target], length)

    def forget(self, slot: int) -> None:
        """Keep nothing of what a slot holds."""
        self._kept[slot] = 0

    def scrub(self, slot: int) -> None:
        """Overwrite all that the network remembers in a slot.

        Raises:
            MemoryError, DeviceLost, Exception: as in `read`.
        """
        zeros = np.zeros(max(1, self._written[slot]) if self.keeps else 1, np.int64)
        self._on_device(lambda: self._read_all(slot, zeros))
        self.forget(slot)

    def _on_device(self, compute: Callable[[], T]) -> T:
        return on_threads(self._threads, lambda: self._guarded(compute))

    @torch.inference_mode()
    def _guarded(self, compute: Callable[[], T]) -> T:
        try:
            return compute()
        except Exception as error:
            tell_apart(error, self._device)
            raise

    def _read(self, pieces: Sequence[Piece]) -> Steps:
        self._prefill([piece for piece in pieces if piece.length])
        ends = [(piece, piece.row) for piece in pieces if piece.row is not None]
        for piece, row in ends:
            self._tally.prepare(piece.slot, [*piece.prompt.tolist(), *row.forced], row.sampling)
        if not ends:
            return NOTHING
        assert self._last is not None
        slots = [piece.slot for piece, _ in ends]
        drawing = Drawing([row for _, row in ends], slots, 1, self._tally, self._device)
        drawing.take(self._last[slots])
        return drawing.finish()

    def _prefill(self, pieces: list[Piece]) -> None:
        if not pieces:
            return
        for piece in pieces:
            if piece.start == 0:
                self._tell(piece)
        logits = prefill(self._model, self._device, pieces, self._state)
        if self._last is None:
            self._last = logits.new_zeros(self.slots, self.vocab_size)
        slots, ends = [piece.slot for piece in pieces], [piece.end for piece in pieces]
        self._last[slots] = logits
        self._kept[slots] = ends
        self._written[slots] = np.maximum(self._written[slots], ends)

    def _tell(self, piece: Piece) -> None:
        """Tell the network what a sequence is told besides tokens, before its first piece.

        One by one and always as wide, so that no bit depends on company.

        Raises:
            ValueError: these are more numbers than the network takes.
        """
        told = np.empty(0, np.float32) if piece.condition is None else piece.condition
        if len(told) > self.condition_length:
            raise ValueError(f"{len(told)} numbers of a condition, where the model takes {self.condition_length}")
        if isinstance(self._model, ConditionedModel):
            row = np.zeros((1, self.condition_length), np.float32)
            row[0, : len(told)] = told
            self._model.condition(torch.from_numpy(row).to(self._device), [len(told)], [piece.slot], self._state)

    def _read_all(self, slot: int, prompt: Tokens) -> None:
        end = 0
        while end < len(prompt):
            start, end = end, piece_end(end, len(prompt))
            self._prefill([Piece(slot, prompt, start, end, None)])

    def _copy(self, source: int, target: int, length: int) -> None:
        assert isinstance(self._model, PrefixModel)
        self._model.copy_slot(source, target, length, self._state)
        if self._last is not None:
            self._last[target] = self._last[source]

    def _advance(self, live: Sequence[Row | None], count: int, interrupted: Callable[[], bool]) -> Steps:
        rows = [*live, *[None] * (self.bucket_for(len(live)) - len(live))]
        starts = self._starts(rows)
        tokens, positions = (torch.from_numpy(array).to(self._device) for array in starts)
        span = self.span_for(max(row.position for row in rows if row is not None) + count)
        drawing = Drawing(rows, range(len(rows)), count, self._tally, self._device)
        for index in range(count):
            tokens = drawing.take(self._model.step(tokens, positions, span, self._state))
            positions = (positions + 1).clamp(max=self.max_length - 1)  # a row may be over before its batch-mates
            if index + 1 < count and interrupted():
                break
        reached = np.minimum(starts[1] + count, self.max_length)
        self._written[: len(rows)] = np.maximum(self._written[: len(rows)], reached)
        return drawing.finish()

    def _starts(self, rows: Sequence[Row | None]) -> tuple[Tokens, Tokens]:
        """The tokens of all rows and where they go.

        A row that is idle writes behind what its slot keeps, whoever may yet read on there or take it over: whatever
        comes there is overwritten before it is looked at.
        """
        tokens, positions = np.zeros(len(rows), np.int64), np.minimum(self._kept[: len(rows)], self.max_length - 1)
        for place, row in enumerate(rows):
            if row is not None:
                tokens[place], positions[place] = row.token, row.position
        return tokens, positions

    def _measure_piece(self) -> float:
        """Seconds a token of a whole piece: the better of two."""
        prompt = np.zeros(min(CHUNK, self.max_length), np.int64)
        return min(_seconds(lambda: self._read_all(0, prompt)) for _ in range(2)) / len(prompt)

    def _measure_step(self) -> float:
        """Seconds of one step of all slots: the better of two."""
        row = Row(0, 0, 0, Sampling(temperature=0.0))
        return min(_seconds(lambda: self._advance([row] * self.slots, 1, lambda: False)) for _ in range(2))


def _seconds(compute: Callable[[], object]) -> float:
    start = time.perf_counter()
    compute()
    return time.perf_counter() - start


def state_bytes(state: object) -> int:
    """Memory of the tensors inside a state."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(state))


def _tensors(state: object) -> Iterator[Tensor]:
    """The tensors inside a state, which is opaque but is made of dataclasses, dicts, lists and tuples."""
    if isinstance(state, Tensor):
        yield state
    elif dataclasses.is_dataclass(state) and not isinstance(state, type):
        for entry in dataclasses.fields(state):
            yield from _tensors(getattr(state, entry.name))
    elif isinstance(state, dict):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, (list, tuple)):
        for value in state:
            yield from _tensors(value)
