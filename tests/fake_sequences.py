"""Sequence models that make tests of text exact: what they say next is known in advance, and so is when they fail.

Importing this registers them, pictures' fakes included; a served process gets them the way an operator's own models
come: `GENSERVE_MODELS_MODULE=tests.fake_sequences`.
"""

import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, pre_tokenizers
from torch import Tensor, nn

import models
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
    """What a slot has read: [slots, max_length], and the length of its prompt, [slots]."""

    tokens: Tensor
    prompts: Tensor


class Digest(nn.Module):
    """A distribution that depends on every token before it, and on its own memory of them being right.

    Prefill and steps give the very same numbers, so every token can be had in several ways.
    """

    def __init__(self, *, max_length: int = 128, vocab_size: int = VOCAB, gate: str = "") -> None:
        super().__init__()
        self.max_length, self.vocab_size, self.gate = max_length, vocab_size, gate
        self.weight = nn.Parameter(torch.ones(1))
        generator = torch.Generator().manual_seed(0)
        self._table = torch.randn(PAGES, vocab_size, generator=generator) * 2
        self._weights = torch.randint(1, 1 << 20, (max_length,), generator=generator)

    def init_state(self, slots: int, /) -> Memory:
        return Memory(torch.zeros(slots, self.max_length, dtype=torch.int64), torch.ones(slots, dtype=torch.int64))

    def prefill(self, tokens: Tensor, lengths: Tensor, slots: Tensor, state: Memory, /) -> Tensor:
        width = tokens.shape[1]
        state.tokens[slots, :width] = tokens
        state.prompts[slots] = lengths
        kinds = _kinds(tokens)
        if ord("P") in kinds:
            raise ValueError("a poisoned prompt")
        if ord("Q") in kinds:
            os._exit(9)
        if ord("H") in kinds:
            fakes._wait_at(Path(self.gate))
        return self._say(tokens, lengths - 1, lengths)

    def step(self, tokens: Tensor, positions: Tensor, span: int, state: Memory, /) -> Tensor:
        live = len(tokens)
        state.tokens[torch.arange(live), positions] = tokens
        read = state.tokens[:live, :span]
        late = _kinds(read[positions >= FUSE])
        if ord("S") in late:
            raise ValueError("a poisoned step")
        if ord("X") in late:
            os._exit(9)
        if ord("M") in late:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        if ord("L") in late:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        kinds = _kinds(read[positions > 0])
        if ord("Z") in kinds:
            time.sleep(NAP_SECONDS)
        if ord("G") in kinds:
            fakes._wait_at(Path(self.gate))
        return self._say(read, positions, state.prompts[:live])

    def _say(self, read: Tensor, positions: Tensor, prompts: Tensor) -> Tensor:
        """Logits after `positions`, with what misbehaves made so: [R, V]."""
        logits = self.logits(read, positions, prompts).clone()
        bad = (read[:, 0] == MARK) & (read[:, 1] == ord("N")) & (positions >= FUSE)
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


class TooNarrow(Digest):
    """Its steps give fewer logits than its vocabulary has tokens."""

    def step(self, tokens: Tensor, positions: Tensor, span: int, state: Memory, /) -> Tensor:
        return super().step(tokens, positions, span, state)[:, :-1]


PAGES = 509
SEQUENCES = {
    "digest": Digest,
    "counting": Counting,
    "echo-text": Echo,
    "text-places-differ": PlacesDiffer,
    "few-rows-differ": FewRowsDiffer,
    "short-spans-differ": ShortSpansDiffer,
    "too-narrow": TooNarrow,
}
models.SEQUENCE_MODELS.update(SEQUENCES)


def spike(tokens: Tensor, vocab_size: int) -> Tensor:
    """Logits that leave no doubt about the next token: [R] -> [R, V]."""
    return 50.0 * nn.functional.one_hot(tokens, vocab_size).float()


def _kinds(rows: Tensor) -> set[int]:
    """Which misbehaviours the rows ask for."""
    return set(rows[rows[:, 0] == MARK, 1].tolist())


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
