"""Sequence models that make tests of text exact: what they say next is known in advance, and so is when they fail.

Importing this registers them, pictures' fakes included; a served process gets them the way an operator's own models
come: `GENSERVE_MODELS_MODULE=tests.fake_sequences`.
"""

import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, pre_tokenizers
from torch import Tensor, nn

import models
from app.engine.jobs import SequenceJob
from models import checkpoint
from tests import fakes

# Token b < 256 is byte b; then the end of text, and a few merges, one of them inside a character.
EOS, TH, THE, ACUTE = 256, 257, 258, 259
VOCAB = 260
END_OF_TEXT = "<|endoftext|>"

# A prompt that starts so makes its model misbehave. The letters at the end are what the step or the prefill looks for.
MARK = 1
RAISE_PREFILL, RAISE_STEP, NAN, GATE, GATE_PREFILL, NAP, EXIT = (f"\x01{kind}" for kind in "PSNGHZX")
EXIT_PREFILL, OUT_OF_MEMORY, LOST = (f"\x01{kind}" for kind in "QML")
FUSE = 12  # position from which RAISE_STEP, NAN, EXIT, OUT_OF_MEMORY and LOST go off: tokens have been sent by then
NAP_SECONDS = 0.01


@dataclass
class Memory:
    """What a slot has read, and who has written it.

    Attributes:
        tokens: [slots, max_length].
        writers: [slots, max_length], a digest of all tokens up to each position at the time when it was written.
        prompts: [slots], the length of what was read in pieces.
        ends: [slots], where the sequence goes on.
    """

    tokens: Tensor
    writers: Tensor
    prompts: Tensor
    ends: Tensor


class Digest(nn.Module):
    """A distribution that depends on every token before it, and on its own memory of them being right.

    Prefill and steps give the very same numbers, so every token can be had in several ways. A position that is read and
    was written by a sequence with other tokens before it is an error: somebody's memory has been spoiled.
    """

    def __init__(self, *, max_length: int = 128, vocab_size: int = VOCAB, gate: str = "") -> None:
        super().__init__()
        self.max_length, self.vocab_size, self.gate = max_length, vocab_size, gate
        self.weight = nn.Parameter(torch.ones(1))
        generator = torch.Generator().manual_seed(0)
        self._table = torch.randn(PAGES, vocab_size, generator=generator) * 2
        self._weights = torch.randint(1, 1 << 20, (max_length,), generator=generator)

    def init_state(self, slots: int, /) -> Memory:
        shape, ones = (slots, self.max_length), torch.ones(slots, dtype=torch.int64)
        return Memory(torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64), ones, ones.clone())

    def prefill(
        self, tokens: Tensor, starts: Sequence[int], lengths: Sequence[int], slots: Sequence[int], state: Memory, /
    ) -> Tensor:
        ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        for row, start, end, slot in zip(tokens, starts, ends, slots, strict=True):
            state.tokens[slot, start:end] = row[: end - start]
            state.writers[slot, start:end] = self._digests(state.tokens[slot, :end])[start:]
            state.prompts[slot] = state.ends[slot] = end
        read = state.tokens[slots, : max(ends)]
        kinds = _kinds(read)
        if ord("P") in kinds:
            raise ValueError("a poisoned prompt")
        if ord("Q") in kinds:
            os._exit(9)
        if ord("H") in kinds:
            fakes._wait_at(Path(self.gate))
        self._check(slots, ends, state)
        return self._say(read, torch.tensor(ends) - 1, torch.tensor(ends))

    def step(self, tokens: Tensor, positions: Tensor, span: int, state: Memory, /) -> Tensor:
        rows = torch.arange(len(tokens))
        self._write(rows, tokens, positions, state)
        self._misbehave(state.tokens[: len(tokens), :span], positions, self._alive(positions, state))
        held = positions < span
        self._check(rows[held].tolist(), (positions[held] + 1).tolist(), state)
        read = state.tokens[: len(tokens), :span]
        return self._say(read, positions.clamp(max=span - 1), state.prompts[: len(tokens)])

    def copy_slot(self, source: int, target: int, length: int, state: Memory, /) -> None:
        for part in (state.tokens, state.writers):
            part[target, :length] = part[source, :length]
        state.prompts[target] = state.ends[target] = length

    def _write(self, rows: Tensor, tokens: Tensor, positions: Tensor, state: Memory) -> None:
        state.tokens[rows, positions] = tokens
        before = torch.where(positions > 0, state.writers[rows, positions - 1], 0)
        state.writers[rows, positions] = before + (tokens + 1) * self._weights[positions]

    def _alive(self, positions: Tensor, state: Memory) -> Tensor:
        """Rows of sequences that go on; whoever has left misbehaves no more."""
        going_on = positions == state.ends[: len(positions)]
        state.ends[: len(positions)] += going_on.long()
        return going_on

    def _misbehave(self, read: Tensor, positions: Tensor, alive: Tensor) -> None:
        late = _kinds(read[alive & (positions >= FUSE)])
        if ord("S") in late:
            raise ValueError("a poisoned step")
        if ord("X") in late:
            os._exit(9)
        if ord("M") in late:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        if ord("L") in late:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        kinds = _kinds(read[alive & (positions > 0)])
        if ord("Z") in kinds:
            time.sleep(NAP_SECONDS)
        if ord("G") in kinds:
            fakes._wait_at(Path(self.gate))

    def _digests(self, tokens: Tensor) -> Tensor:
        """What a position's writer has read, for each position."""
        return ((tokens + 1) * self._weights[: tokens.shape[-1]]).cumsum(-1)

    def _check(self, slots: Sequence[int], ends: Sequence[int], state: Memory) -> None:
        width = max(ends, default=0)
        past = torch.arange(width) < torch.tensor(ends)[:, None]
        wrong = (state.writers[slots, :width] != self._digests(state.tokens[slots, :width])) & past
        if wrong.any():
            slot, end = slots[int(wrong.any(1).nonzero()[0])], ends[int(wrong.any(1).nonzero()[0])]
            raise AssertionError(f"slot {slot} reads up to {end} what another sequence has written")

    def _say(self, read: Tensor, positions: Tensor, prompts: Tensor) -> Tensor:
        """Logits after `positions`, with what misbehaves made so: [R, V]."""
        logits = self.logits(read, positions, prompts).clone()
        bad = (read[:, 0] == MARK) & (read[:, 1:2] == ord("N")).any(dim=1) & (positions >= FUSE)
        logits[bad] = float("nan")
        return logits

    def logits(self, read: Tensor, positions: Tensor, prompts: Tensor) -> Tensor:
        past = torch.arange(read.shape[1]) <= positions[:, None]
        sums = ((read + 1) * self._weights[: read.shape[1]] * past).sum(dim=1)
        return self._table[sums % PAGES]


class Counting(Digest):
    """Says the token after the last one, and after the last of the vocabulary the first."""

    def logits(self, read: Tensor, positions: Tensor, prompts: Tensor) -> Tensor:
        last = read[torch.arange(len(read)), positions]
        return spike((last + 1) % self.vocab_size, self.vocab_size)


class Echo(Digest):
    """Repeats its prompt over and over, each token read back out of its own memory."""

    def logits(self, read: Tensor, positions: Tensor, prompts: Tensor) -> Tensor:
        return spike(read[torch.arange(len(read)), (positions + 1 - prompts).clamp(min=0)], self.vocab_size)


class Striding(Digest):
    """Counts in steps of the sum of what it was told, or of one; behind the last token comes the first."""

    condition_length = 3

    def init_state(self, slots: int, /) -> Memory:
        state = super().init_state(slots)
        state.strides = torch.ones(slots, dtype=torch.int64)
        return state

    def condition(self, conditions: Tensor, lengths: Sequence[int], slots: Sequence[int], state: Memory, /) -> None:
        for row, length, slot in zip(conditions, lengths, slots, strict=True):
            assert row.dtype == torch.float32
            assert not row[length:].any()
            state.strides[slot] = int(row.sum()) if length else 1

    def prefill(
        self, tokens: Tensor, starts: Sequence[int], lengths: Sequence[int], slots: Sequence[int], state: Memory, /
    ) -> Tensor:
        super().prefill(tokens, starts, lengths, slots, state)
        last = tokens[torch.arange(len(slots)), torch.tensor(lengths) - 1]
        return self._next(last, state.strides[list(slots)])

    def step(self, tokens: Tensor, positions: Tensor, span: int, state: Memory, /) -> Tensor:
        bad = torch.isnan(super().step(tokens, positions, span, state)).any(dim=1)
        logits = self._next(tokens, state.strides[: len(tokens)])
        logits[bad] = float("nan")
        return logits

    def _next(self, last: Tensor, strides: Tensor) -> Tensor:
        return spike((last + strides) % self.vocab_size, self.vocab_size)


class PlacesDiffer(Digest):
    """A row's bits depend on its slot: no two sequences may run at once."""

    def step(self, tokens: Tensor, positions: Tensor, span: int, state: Memory, /) -> Tensor:
        return super().step(tokens, positions, span, state) + 1e-3 * torch.arange(len(tokens))[:, None]


class FewRowsDiffer(Digest):
    """Fewer than 4 rows at once have other bits, as matrix products in fp32 do."""

    def step(self, tokens: Tensor, positions: Tensor, span: int, state: Memory, /) -> Tensor:
        logits = super().step(tokens, positions, span, state)
        return logits + 1e-3 if len(tokens) < 4 else logits


class ShortSpansDiffer(Digest):
    """Reading a prefix below 256 has other bits."""

    def step(self, tokens: Tensor, positions: Tensor, span: int, state: Memory, /) -> Tensor:
        logits = super().step(tokens, positions, span, state)
        return logits + 1e-3 if span < 256 else logits


class Grained(Digest):
    """A position's memory depends on the piece that it was read in, and on whether a step has read it."""

    def prefill(self, tokens, starts, lengths, slots, state, /):
        logits = super().prefill(tokens, starts, lengths, slots, state)
        for start, length, slot in zip(starts, lengths, slots, strict=True):
            state.grains[slot, start : start + length] = 1000 * start + length
        ends = torch.tensor(starts) + torch.tensor(lengths)
        return logits + self._grain(state.grains[slots], ends - 1)

    def step(self, tokens, positions, span, state, /):
        logits = super().step(tokens, positions, span, state)
        state.grains[torch.arange(len(tokens)), positions] = -1
        return logits + self._grain(state.grains[: len(tokens)], positions)

    def init_state(self, slots, /):
        state = super().init_state(slots)
        state.grains = torch.zeros(slots, self.max_length, dtype=torch.int64)
        return state

    def copy_slot(self, source, target, length, state, /):
        super().copy_slot(source, target, length, state)
        state.grains[target, :length] = state.grains[source, :length]

    def _grain(self, grains: Tensor, positions: Tensor) -> Tensor:
        past = torch.arange(grains.shape[1]) <= positions[:, None]
        return self._table[(grains * self._weights * past).sum(dim=1) % PAGES]


class Recurrent(nn.Module):
    """Knows no positions: each token changes all that it remembers. It raises when one was left out."""

    def __init__(self, *, max_length: int = 256, vocab_size: int = VOCAB) -> None:
        super().__init__()
        self.max_length, self.vocab_size = max_length, vocab_size
        self.weight = nn.Parameter(torch.ones(1))
        self._table = torch.randn(PAGES, vocab_size, generator=torch.Generator().manual_seed(1)) * 2

    def init_state(self, slots: int, /) -> list[Tensor]:
        return [torch.zeros(slots, dtype=torch.int64), torch.zeros(slots, dtype=torch.int64)]

    def prefill(self, tokens, starts, lengths, slots, state, /):
        sums, counts = state
        for row, start, length, slot in zip(tokens, starts, lengths, slots, strict=True):
            if start == 0:
                sums[slot] = counts[slot] = 0
            if counts[slot] != start:
                raise AssertionError(f"slot {slot} has read {counts[slot]} tokens, not {start}")
            for token in row[:length].tolist():
                sums[slot] = (sums[slot] * 31 + token + 1) % (1 << 30)
            counts[slot] += length
        if any(row[0] == MARK and row[1] == ord("P") for row in tokens):
            raise ValueError("a poisoned prompt")
        return self._table[sums[list(slots)] % PAGES]

    def step(self, tokens, positions, span, state, /):
        sums, counts = state
        sums[: len(tokens)] = (sums[: len(tokens)] * 31 + tokens + 1) % (1 << 30)
        counts[: len(tokens)] += 1
        return self._table[sums[: len(tokens)] % PAGES]


class TooNarrow(Digest):
    """Its steps give fewer logits than its vocabulary has tokens."""

    def step(self, tokens: Tensor, positions: Tensor, span: int, state: Memory, /) -> Tensor:
        return super().step(tokens, positions, span, state)[:, :-1]


PAGES = 509
SEQUENCES = {
    "digest": Digest,
    "counting": Counting,
    "echo-text": Echo,
    "striding": Striding,
    "text-places-differ": PlacesDiffer,
    "few-rows-differ": FewRowsDiffer,
    "short-spans-differ": ShortSpansDiffer,
    "too-narrow": TooNarrow,
    "grained": Grained,
    "recurrent": Recurrent,
}
models.SEQUENCE_MODELS.update(SEQUENCES)


def spike(tokens: Tensor, vocab_size: int) -> Tensor:
    """Logits that leave no doubt about the next token: [R] -> [R, V]."""
    return 50.0 * nn.functional.one_hot(tokens, vocab_size).float()


def _kinds(rows: Tensor) -> set[int]:
    """Which misbehaviours the rows ask for."""
    return set(rows[rows[:, 0] == MARK, 1].tolist()) if rows.shape[1] > 1 else set()


@cache
def tokenizer_file() -> bytes:
    """A byte-level BPE's `tokenizer.json`: 256 bytes, an end of text, three merges."""
    names = _byte_names()
    merges = [("t", "h"), ("th", "e"), (names[0xC3], names[0xA9])]
    vocabulary = {names[byte]: byte for byte in range(256)}
    vocabulary |= {END_OF_TEXT: EOS, "th": TH, "the": THE, "".join(merges[2]): ACUTE}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([END_OF_TEXT])
    assert made.token_to_id(END_OF_TEXT) == EOS
    return made.to_str().encode()


def _byte_names() -> list[str]:
    """The letter that stands for each byte (Radford et al. 2019): itself where it can be seen, else one from 256 on."""
    seen = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in seen]
    return [chr(byte) if byte in seen else chr(256 + hidden.index(byte)) for byte in range(256)]


def write(weights: Path, name: str, architecture: str = "digest", *, eos: int | None = EOS, **config) -> Path:
    """Save a weights folder the way that training does; gives the folder."""
    network = SEQUENCES[architecture](**config)
    checkpoint.save(
        weights / name,
        network,
        architecture=architecture,
        config=config,
        card={"license": "none"},
        tokenizer=tokenizer_file(),
        eos_token_id=eos,
    )
    return weights / name


def frame_of(number: int, job: SequenceJob) -> dict[str, Any]:
    """The frame that brings a worker this job, as the engine sends it."""
    fields = dataclasses.asdict(dataclasses.replace(job, condition=None, grammar=None))
    grammars = [] if job.grammar is None else [(job.grammar.kind, job.grammar.text)]
    raw = {**fields, "condition": job.condition is not None, "grammar": 0 if grammars else None}
    return {"type": "sequences", "jobs": [(number, raw)], "grammars": grammars}
