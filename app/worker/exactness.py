"""Which row counts, prefix lengths and company leave every bit of a sequence model's output as it is.

Knows the model and a state to try things on; used once, at warm-up, and it must not take long: a few sequences of 9 to
100 tokens are tried at all slots and two places each, at every row count on offer, at the shortest prefixes that hold
them and at one of 256 positions; and pieces of a few lengths, alone and in one call. Taken for granted is that longer
prefixes and pieces, and row counts at other prefixes, behave like these: they run the same kernels.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.worker.pieces import CHUNK, Piece, piece_end
from app.worker.runner import ModelFault, powers_of_two
from models.protocols import PrefixModel, SequenceModel

SPAN_GRID = 32  # prefixes are read up to a multiple of this, or of the first power of two above that is exact
REFERENCE_SPAN = 256
LENGTHS = (9, 40, 100)  # of the sequences that are tried
RECURRENT_LENGTH = 8  # where a step changes all that is remembered, so that they are read anew each time
STEPS = 2
PIECES = (1, 16)  # lengths of pieces that are read alone and together
COMPANY = 32  # tokens that are read with them
NEVER = 1 << 31  # tokens: no piece has as many

Found = dict[int, Tensor]  # logits of a step or two by sequence, [S, V]


@dataclass(frozen=True)
class Exact:
    """What leaves every bit as it is.

    Attributes:
        slots: how many sequences may run at once: one, when bits depend on the place.
        buckets: row counts, ascending; the last is all slots.
        spans: prefix lengths, ascending; the last is the model's max_length.
        packs_from: the shortest piece of a prompt that may be read in one call with others.
    """

    slots: int
    buckets: tuple[int, ...]
    spans: tuple[int, ...]
    packs_from: int


def find_exact(model: SequenceModel[Any], device: torch.device, slots: int) -> Exact:
    """Try the model out.

    Raises:
        ModelFault: its output is not [R, vocab_size].
        Exception: whatever the network raises.
    """
    trial = _Trial(model, device, slots)
    longest = min(model.max_length, REFERENCE_SPAN)
    reference = trial.logits(slots, longest)
    trial.fill(backwards=True)
    if not _same(trial.logits(slots, longest), reference):
        return find_exact(model, device, 1)
    spans = _exact_spans(trial, reference, model.max_length)
    buckets = _exact_sizes(trial, reference, spans)
    return Exact(slots, buckets, spans, _packs_from(trial))


def _exact_spans(trial: "_Trial", reference: Found, longest: int) -> tuple[int, ...]:
    """The finest grid on which every sequence has the bits of the reference, and the whole slot."""
    grid = SPAN_GRID
    while grid < longest:
        edges = {-(-(length + STEPS) // grid) * grid for length in trial.lengths}
        if all(_same(trial.logits(trial.slots, edge, 1), reference) for edge in edges if edge < longest):
            return (*range(grid, longest, grid), longest)
        grid *= 2
    return (longest,)


def _exact_sizes(trial: "_Trial", reference: Found, spans: tuple[int, ...]) -> tuple[int, ...]:
    """Row counts from the largest down that agree with it."""
    wide = next((span for span in spans if span >= max(trial.lengths) + STEPS), spans[-1])
    found: tuple[int, ...] = (trial.slots,)
    for size in reversed(row_counts(trial.slots)[:-1]):
        if not _same(trial.logits(size, wide, 1), reference):
            break
        found = (size, *found)
    return found


def row_counts(slots: int) -> list[int]:
    """Powers of two, and from 12 on what lies half way between them; the last is all slots."""
    between = [size * 3 // 2 for size in powers_of_two(slots) if size >= 8 and size * 3 // 2 < slots]
    return sorted({*powers_of_two(slots), *between})


def _packs_from(trial: "_Trial") -> int:
    """The shortest of the lengths from which on pieces have the same bits alone and together."""
    if trial.slots == 1:
        return NEVER
    shortest = NEVER
    for length in reversed(PIECES):
        if length <= trial.longest and not trial.piece_agrees(length):
            break
        shortest = min(shortest, length)
    return shortest


def _same(found: Found, reference: Found) -> bool:
    """Whether these are the first steps of the reference."""
    return all(torch.equal(logits, reference[which][: len(logits)]) for which, logits in found.items())


class _Trial:
    """A state, and sequences in all of its slots, over and over again in the same order."""

    def __init__(self, model: SequenceModel[Any], device: torch.device, slots: int) -> None:
        self._model, self._device, self.slots = model, device, slots
        self._state = model.init_state(slots)
        self._keeps, self._begun = isinstance(model, PrefixModel), False
        self.longest = model.max_length - STEPS
        lengths = LENGTHS if self._keeps else (RECURRENT_LENGTH,) * len(LENGTHS)
        self.lengths = [max(1, min(length, self.longest)) for length in lengths[:slots]]
        rng = np.random.default_rng(0)
        self._prompts = rng.integers(model.vocab_size, size=(len(LENGTHS), max(*LENGTHS, 2 * CHUNK) + STEPS))
        self.fill(backwards=False)

    def fill(self, *, backwards: bool) -> None:
        """Have the slots hold the sequences in turn, from the first slot on or from the last one back.

        Only those are filled that are looked at: the last few rows of each row count.
        """
        count = len(self.lengths)
        order = [(self.slots - 1 - slot if backwards else slot) % count for slot in range(self.slots)]
        self._holds, self._kept = np.array(order), np.zeros(self.slots, np.int64)
        tried = {row for size in row_counts(self.slots) for row in self._rows(size)}
        self._kept[list(tried)] = [self.lengths[order[row]] for row in tried]
        homes = list(self._rows(self.slots))
        self._read_sequences(homes)
        for slot in sorted(tried.difference(homes) if self._keeps else ()):
            assert isinstance(self._model, PrefixModel)
            home = next(home for home in homes if order[home] == order[slot])
            self._model.copy_slot(home, slot, int(self._kept[slot]), self._state)

    def _rows(self, size: int) -> range:
        """The last few of so many rows: as many as there are sequences."""
        return range(max(0, size - len(self.lengths)), size)

    def _read_sequences(self, slots: Iterable[int]) -> None:
        for slot in slots:
            self._read_alone(slot, self._prompts[self._holds[slot], : self._kept[slot]])

    def _read_alone(self, slot: int, prompt: NDArray[np.int64]) -> Tensor:
        end = 0
        while end < len(prompt):
            start, end = end, piece_end(end, len(prompt))
            logits = self._prefill([Piece(slot, prompt, start, end, None)])
        return logits

    def logits(self, size: int, span: int, steps: int = STEPS) -> Found:
        """What the last few of so many rows say after their sequences' next tokens, as far as the prefix holds them.

        Where it is only asked whether bits are others, one step tells: it reads what it has just written.
        """
        rows = self._rows(size)
        if not self._keeps:
            self._read_sequences(rows)
        rows_held = [row for row in rows if self._kept[row] + STEPS <= span]
        out = []
        for step in range(steps):
            positions = np.minimum(self._kept[:size] + step, self._model.max_length - 1)
            out.append(self._step(self._prompts[self._holds[:size], positions], positions, span))
        return {int(self._holds[row]): torch.stack([logits[row] for logits in out]) for row in rows_held}

    def _step(self, tokens: NDArray[np.int64], positions: NDArray[np.int64], span: int) -> Tensor:
        ids, places = torch.from_numpy(tokens).to(self._device), torch.from_numpy(positions).to(self._device)
        logits = self._model.step(ids, places, span, self._state)
        wanted = len(tokens), self._model.vocab_size
        if logits.shape != wanted:
            raise ModelFault(f"step gives {list(logits.shape)} for {len(tokens)} rows; {list(wanted)} expected")
        return logits.clone()

    def piece_agrees(self, length: int) -> bool:
        """Whether a piece of so many tokens that goes on, and a first one, are the same alone and in company."""
        lengths = [CHUNK + length, COMPANY, length][: self.slots]
        prompts = [self._prompts[which, : min(own, self.longest)] for which, own in enumerate(lengths)]
        alone = [self._prefill([self._last_piece(slot, prompt)])[0].clone() for slot, prompt in enumerate(prompts)]
        after = self._after(prompts)
        pieces = [self._last_piece(slot, prompt) for slot, prompt in enumerate(prompts)]
        together = self._prefill(pieces)
        return all(map(torch.equal, alone, together)) and torch.equal(self._after(prompts), after)

    def _last_piece(self, slot: int, prompt: NDArray[np.int64]) -> Piece:
        """The rest of a prompt, of whose first piece the slot knows: the same whatever comes after it."""
        first = CHUNK if len(prompt) > CHUNK else 0
        if first and not (self._keeps and self._begun):
            self._read_alone(slot, prompt[:first])
            self._begun = True
        return Piece(slot, prompt, first, len(prompt), None)

    def _prefill(self, pieces: list[Piece]) -> Tensor:
        return prefill(self._model, self._device, pieces, self._state)

    def _after(self, prompts: list[NDArray[np.int64]]) -> Tensor:
        """Logits of a step behind these prompts: it looks at all that they have left behind."""
        positions = np.array([len(prompt) for prompt in prompts])
        return self._step(np.ones_like(positions), positions, min(self._model.max_length, REFERENCE_SPAN))


def prefill(model: SequenceModel[Any], device: torch.device, pieces: list[Piece], state: object) -> Tensor:
    """Have the model read pieces in one call: logits after each, [B, V]."""
    tokens = np.zeros((len(pieces), max(piece.length for piece in pieces)), np.int64)
    for row, piece in zip(tokens, pieces, strict=True):
        row[: piece.length] = piece.prompt[piece.start : piece.end]
    starts, lengths = [piece.start for piece in pieces], [piece.length for piece in pieces]
    slots = [piece.slot for piece in pieces]
    return model.prefill(torch.from_numpy(tokens).to(device), starts, lengths, slots, state)
