"""Sequence models whose tokens are codes of pictures or samples of sound, and a decoder, all known in advance.

Importing this registers them, and the other fakes; a served process gets them the way an operator's own models come:
`GENSERVE_MODELS_MODULE=tests.fake_outputs`.
"""

import json
import os
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from tokenizers import Regex, normalizers, pre_tokenizers
from torch import Tensor, nn

import models
from models import checkpoint
from tests import fake_sequences, fakes

# Captions: ids 0..15 are codes, then padding, what stands for other words, and words.
CODES, PAD, UNKNOWN = 16, 16, 17
WORDS = ("a", "blue", "cat", "dog", "on", "raise", "red", "wait")
WORD_IDS = {word: UNKNOWN + 1 + place for place, word in enumerate(WORDS)}
CAPTION, SIDE = 4, 2
TOKENS = SIDE * SIDE
GUIDANCE = 2.0  # the network's own

# Speech: what a letter of a transcript does besides being added up.
LETTERS = " abcdefghijklmnopqrstuvwxyz!?#~"
RAISE, WAIT, EXIT, NAP = "!?#~"
LEVELS, SILENCE, RATE, SAMPLES_A_LETTER = 256, 128, 1000, 20
MAX_LETTERS = 24
FUSE = 30  # samples, after which RAISE and EXIT go off
NAP_SECONDS = 0.002


class CodePainter(nn.Module):
    """A decoder of codes: pixel (y, x) is as light as the code in its place is large; see `painted`."""

    def __init__(self, *, num_codes: int = CODES, side: int = SIDE) -> None:
        super().__init__()
        self.latent_shape: tuple[int, ...] = (side, side)
        self.num_classes, self.num_codes = 0, num_codes
        self.weight = nn.Parameter(torch.ones(1))

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        if latents.dtype != torch.float32:
            raise ValueError("codes in fewer bits than they need")
        codes = latents.round().clamp(0, self.num_codes - 1)
        return (codes / (self.num_codes - 1) * 2 - 1)[:, None]

    def encode(self, samples: Tensor, labels: Tensor, /) -> Tensor:
        return ((samples[:, 0] + 1) / 2 * (self.num_codes - 1)).round()


def painted(codes: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
    """What `CodePainter` must make of codes [n, TOKENS]: [n, SIDE, SIDE, 1]."""
    grey = np.array(codes, np.float32).reshape(-1, SIDE, SIDE, 1) / np.float32(CODES - 1) * 2 - 1
    return np.rint((grey + 1) * 127.5).astype(np.uint8)


class Scribe(fake_sequences.Digest):
    """Writes codes: its logits are u + s * (c - u), c of the caption, u of none, s what it was told, or 2.

    With the caption "raise" it raises at its second code, with "wait" it waits for its gate there.
    """

    condition_length = 1

    def __init__(self, *, max_length: int = CAPTION + TOKENS, gate: str = "") -> None:
        super().__init__(max_length=max_length, vocab_size=UNKNOWN + 1 + len(WORDS), gate=gate)
        self.num_codes = CODES

    def init_state(self, slots: int, /):
        state = super().init_state(slots)
        state.scales = torch.full((slots,), GUIDANCE)
        return state

    def condition(self, conditions: Tensor, lengths: Sequence[int], slots: Sequence[int], state, /) -> None:
        for row, length, slot in zip(conditions, lengths, slots, strict=True):
            state.scales[slot] = row[0] if length else GUIDANCE

    def prefill(self, tokens, starts, lengths, slots, state, /):
        self._scales = state.scales[list(slots)]
        return super().prefill(tokens, starts, lengths, slots, state)

    def step(self, tokens: Tensor, positions: Tensor, span: int, state, /) -> Tensor:
        self._scales = state.scales[: len(tokens)]
        captions = state.tokens[: len(tokens), :CAPTION][positions == CAPTION].tolist()
        if [WORD_IDS["raise"], *[PAD] * (CAPTION - 1)] in captions:
            raise ValueError("a poisoned caption")
        if [WORD_IDS["wait"], *[PAD] * (CAPTION - 1)] in captions:
            fakes._wait_at(Path(self.gate))
        return super().step(tokens, positions, span, state)

    def logits(self, read: Tensor, positions: Tensor, prompts: Tensor) -> Tensor:
        blank = read.clone()
        blank[:, :CAPTION] = PAD
        told, untold = (super(Scribe, self).logits(some, positions, prompts) for some in (read, blank))
        out = untold + self._scales[:, None] * (told - untold)
        out[:, CODES:] = -torch.inf
        return out


def words(caption: str) -> list[int]:
    """The ids of a caption, padded."""
    ids = [WORD_IDS[word] for word in caption.split()]
    return [*ids, *[PAD] * (CAPTION - len(ids))]


@cache
def written(caption: str, scale: float = GUIDANCE) -> tuple[int, ...]:
    """The codes that `Scribe` must write for a caption when it takes the likeliest each time."""
    network = Scribe()
    state = network.init_state(1)
    network.condition(torch.tensor([[scale]]), [1], [0], state)
    codes = [int(network.prefill(torch.tensor([words(caption)]), [0], [CAPTION], [0], state).argmax())]
    for place in range(CAPTION, CAPTION + TOKENS - 1):
        codes.append(int(network.step(torch.tensor(codes[-1:]), torch.tensor([place]), 8, state).argmax()))
    return tuple(codes)


class Humming(nn.Module):
    """Sound that rises in steps of the sum of its letters' numbers; it keeps nothing by position."""

    condition_length = 1 + MAX_LETTERS

    def __init__(self, *, max_length: int = 4001, gate: str = "") -> None:
        super().__init__()
        self.vocab_size, self.max_length, self.gate = LEVELS, max_length, gate
        self.weight = nn.Parameter(torch.ones(1))

    def init_state(self, slots: int, /) -> dict[str, Tensor]:
        letters = torch.zeros(slots, MAX_LETTERS, dtype=torch.int64)
        return {"letters": letters, "position": torch.zeros(slots, dtype=torch.int64)}

    def condition(self, conditions: Tensor, lengths: Sequence[int], slots: Sequence[int], state, /) -> None:
        for row, slot in zip(conditions, slots, strict=True):
            state["letters"][slot] = row[1:].long()

    def prefill(self, tokens, starts, lengths, slots, state, /):
        last = tokens[torch.arange(len(slots)), torch.tensor(lengths) - 1]
        return self._next(last, state["letters"][list(slots)])

    def step(self, tokens: Tensor, positions: Tensor, span: int, state, /) -> Tensor:
        letters = state["letters"][: len(tokens)]
        there = {LETTERS[int(letter) - 1] for letter in letters.unique() if letter}
        late = {LETTERS[int(letter) - 1] for letter in letters[positions == FUSE].unique() if letter}
        if RAISE in late:
            raise ValueError("a poisoned transcript")
        if EXIT in late:
            os._exit(9)
        if WAIT in late:
            fakes._wait_at(Path(self.gate))
        if NAP in there:
            time.sleep(NAP_SECONDS)
        return self._next(tokens, letters)

    def _next(self, last: Tensor, letters: Tensor) -> Tensor:
        return fake_sequences.spike((last + letters.sum(dim=1)) % LEVELS, LEVELS)


def hummed(text: str, samples: int) -> list[int]:
    """The levels that `Humming` must give for a transcript."""
    stride = sum(LETTERS.index(letter) + 1 for letter in text)
    return [(SILENCE + stride * place) % LEVELS for place in range(1, samples + 1)]


OUTPUT_SEQUENCES = {"scribe": Scribe, "humming": Humming}
models.SEQUENCE_MODELS.update(OUTPUT_SEQUENCES)
models.LATENT_MODELS["code-painter"] = CodePainter

PICTURES = {
    "kind": "image",
    "decoder": "painter",
    "tokens": TOKENS,
    "prompt_tokens": CAPTION,
    "pad_token_id": PAD,
}
SPEECH = {
    "kind": "audio",
    "sample_rate": RATE,
    "encoding": "mu-law",
    "characters": LETTERS,
    "samples_per_character": SAMPLES_A_LETTER,
    "start_token_id": SILENCE,
}


def word_tokenizer() -> bytes:
    """A `tokenizer.json` of whole words: small letters and digits, whatever stands between them."""
    vocabulary = {"<pad>": PAD, "<unk>": UNKNOWN, **WORD_IDS}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Split(Regex("[^a-z0-9]+"), "removed")
    return json.dumps(json.loads(made.to_str())).encode()


def write_painter(weights: Path, name: str = "painter", **config) -> Path:
    """Save the decoder's folder the way that training does; gives the folder."""
    network = CodePainter(**config)
    checkpoint.save(weights / name, network, architecture="code-painter", config=config, card={"license": "none"})
    return weights / name


def write_scribe(weights: Path, name: str = "scribe", *, output=None, **config) -> Path:
    """The same for the model that writes codes."""
    checkpoint.save(
        weights / name,
        Scribe(**config),
        architecture="scribe",
        config=config,
        card={"license": "none"},
        tokenizer=word_tokenizer(),
        output={**PICTURES, **(output or {})},
    )
    return weights / name


def write_plain_scribe(weights: Path, name: str = "plain") -> Path:
    """A model of captions that takes no guidance; it may write words among its codes."""
    config = {"max_length": CAPTION + TOKENS, "vocab_size": 26}
    checkpoint.save(
        weights / name,
        fake_sequences.Digest(**config),
        architecture="digest",
        config=config,
        card={"license": "none"},
        tokenizer=word_tokenizer(),
        output=PICTURES,
    )
    return weights / name


def write_humming(weights: Path, name: str = "humming", *, output=None, **config) -> Path:
    """The same for the one that speaks."""
    checkpoint.save(
        weights / name,
        Humming(**config),
        architecture="humming",
        config=config,
        card={"license": "none"},
        output={**SPEECH, **(output or {})},
    )
    return weights / name
