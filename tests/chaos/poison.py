"""Networks that do what a request tells them to: raise, hang, run out of memory, end their own process.

A served process gets them the way an operator's own models come: `GENSERVE_MODELS_MODULE=tests.chaos.poison`. What they
paint and say otherwise is known in advance, so that whoever gets another's result can tell.
"""

import ctypes
import os
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import models
from models import checkpoint
from tests import fake_outputs, fake_sequences, fakes

# The first number of a latent can be one of these: powers of two, which every precision holds, and which no drawn
# latent comes near.
SLOW = 512.0  # takes as many seconds more as the second number says
RAISE = 1024.0
NAN = 2048.0
HANG = 4096.0  # the thread sleeps, others go on
MEMORY = 8192.0  # asks for more memory than there is
EXIT = 16384.0
SEGFAULT = 32768.0
FREEZE = 65536.0  # hangs with the interpreter's lock held, as a kernel's endless loop may: no thread goes on
GREEDY = 131072.0  # needs more memory than there is in a batch of more than `GREEDY_ROWS`

GREEDY_ROWS = 4
HANG_SECONDS = 600  # more than any test waits, and an end in case that nobody kills it
IMPOSSIBLE = 1 << 50  # numbers: four pebibytes

# A prompt that starts so makes its text model misbehave; the others are those of `fake_sequences`.
HANG_STEP, EXIT_PREFILL = "\x01W", "\x01Q"

FIRST, LETTERS = ord("!"), 94  # the printable part of ASCII, which `Cycle` goes through over and over


class Poisoned(fakes.EchoLatents):
    """Paints its latent, unless a latent of the batch says otherwise.

    Each row costs so many milliseconds of one core: products of matrices, for which the interpreter's lock is free.
    """

    def __init__(self, *, side: int = 4, milliseconds: float = 0.0) -> None:
        super().__init__(side=side, num_classes=0)
        self._seconds = milliseconds / 1000
        self._factor = torch.full((96, 96), 1 / 96)

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        kinds = latents[:, 0]
        for kind, seconds in latents[:, :2].tolist():
            if kind == SLOW:
                time.sleep(seconds)
        _misbehave(set(kinds.tolist()), len(labels))
        self._work(len(labels) * self._seconds)
        out = super().decode(latents, labels)
        out[kinds == NAN] = float("nan")
        return out

    def _work(self, seconds: float) -> None:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            torch.mm(self._factor, self._factor)


def _misbehave(kinds: set[float], rows: int) -> None:
    if RAISE in kinds:
        raise ValueError("a poisoned latent")
    if MEMORY in kinds or (GREEDY in kinds and rows > GREEDY_ROWS):
        torch.empty(IMPOSSIBLE)
    if HANG in kinds:
        time.sleep(HANG_SECONDS)
    if FREEZE in kinds:
        ctypes.PyDLL(None).sleep(HANG_SECONDS)  # called with the lock held
    if EXIT in kinds:
        os._exit(9)
    if SEGFAULT in kinds:
        ctypes.string_at(0)


class Wide(nn.Module):
    """Noise in colour that no codec makes smaller, brightened by the latent's first number: answers of megabytes."""

    def __init__(self, *, side: int = 256) -> None:
        super().__init__()
        self.latent_shape, self.num_classes = (fakes.LATENT_DIM,), 0
        self.weight = nn.Parameter(torch.ones(1))
        self._grain = torch.from_numpy(_grain(side))

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        return self._grain + 0.5 * latents[:, 0].clamp(-1.0, 1.0)[:, None, None, None] * self.weight


def _grain(side: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (3, side, side)).astype(np.float32)


def wide(latents: NDArray[np.float32], *, side: int = 256) -> NDArray[np.uint8]:
    """What `Wide` must come out as: [n, side, side, 3]."""
    light = np.float32(0.5) * np.clip(latents[:, 0], np.float32(-1), np.float32(1))
    out = _grain(side) + light[:, None, None, None]
    return np.rint((out + np.float32(1)) * np.float32(127.5)).astype(np.uint8).transpose(0, 2, 3, 1)


class Cycle(fake_sequences.Digest):
    """Says the letter after the last one, and "!" after "~"; never ends of its own accord."""

    def step(self, tokens: Tensor, positions: Tensor, span: int, state: fake_sequences.Memory, /) -> Tensor:
        going_on = positions == state.ends[: len(tokens)]
        logits = super().step(tokens, positions, span, state)
        late = state.tokens[: len(tokens)][going_on & (positions >= fake_sequences.FUSE)]
        if ord("W") in fake_sequences._kinds(late):
            time.sleep(HANG_SECONDS)
        return logits

    def logits(self, read: Tensor, positions: Tensor, prompts: Tensor) -> Tensor:
        last = read[torch.arange(len(read)), positions]
        return fake_sequences.spike(FIRST + (last - FIRST + 1) % LETTERS, self.vocab_size)


def cycle(last: str, count: int) -> str:
    """What `Cycle` says after a letter."""
    return "".join(chr(FIRST + (ord(last) - FIRST + 1 + place) % LETTERS) for place in range(count))


assert fake_outputs.OUTPUT_SEQUENCES, "registered too: a served process knows no other module"
ARCHITECTURES: dict[str, type[nn.Module]] = {"poisoned": Poisoned, "wide": Wide, "cycle": Cycle}
models.LATENT_MODELS.update(poisoned=Poisoned, wide=Wide)
models.SEQUENCE_MODELS.update(cycle=Cycle)


def write(weights: Path, name: str, architecture: str = "", **config: float) -> Path:
    """Save a weights folder the way that training does; gives the folder."""
    architecture = architecture or name
    text = {"tokenizer": fake_sequences.tokenizer_file(), "eos_token_id": None} if architecture == "cycle" else {}
    network = ARCHITECTURES[architecture](**config)
    checkpoint.save(weights / name, network, architecture=architecture, config=config, card={"license": "none"}, **text)
    return weights / name
