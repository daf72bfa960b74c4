"""Clips that a network for speech makes, many at once, as a service makes them: step by step, from its memory.

Knows networks, transcripts and seeds; knows no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import mu_law
from models.wavenet import WaveNet


@dataclass(frozen=True)
class Wish:
    """A clip to be made.

    Attributes:
        characters: numbers of its transcript's characters, [C].
        samples: how long it is.
        seed: of what is drawn.
        temperature: above 0.
    """

    characters: Tensor
    samples: int
    seed: int = 0
    temperature: float = 1.0


@torch.inference_mode()
def speak(network: WaveNet, wishes: Sequence[Wish]) -> list[NDArray[np.uint8]]:
    """The codes of each clip, [samples]; a clip is the same whatever else is wished for, but for rounding.

    Raises:
        ValueError: nothing is wished for, or a clip is longer than the network's memory or has too many characters.
    """
    longest = _check(network, wishes)
    state, slots = network.init_state(len(wishes)), range(len(wishes))
    network.condition(*_conditions(wishes), slots, state)
    tokens = torch.full((len(wishes), 1), mu_law.SILENCE)
    logits = network.prefill(tokens, [0] * len(wishes), [1] * len(wishes), slots, state)
    noise = torch.from_numpy(np.stack([_noise(wish.seed, longest) for wish in wishes]))
    temperatures = torch.tensor([[wish.temperature] for wish in wishes], dtype=torch.float64)
    drawn = torch.empty(len(wishes), longest, dtype=torch.int64)
    for position in range(longest):
        drawn[:, position] = _draw(logits, noise[:, position], temperatures)
        if position + 1 < longest:
            logits = network.step(drawn[:, position], torch.full((len(wishes),), position + 1), longest, state)
    codes = drawn.numpy().astype(np.uint8)
    return [row[: wish.samples] for row, wish in zip(codes, wishes, strict=True)]


def _check(network: WaveNet, wishes: Sequence[Wish]) -> int:
    """Samples of the longest clip."""
    longest = max((wish.samples for wish in wishes), default=0)
    if not 0 < longest <= network.max_length:
        raise ValueError(f"{longest} samples: between 1 and {network.max_length} can be made")
    characters = max(len(wish.characters) for wish in wishes)
    if characters >= network.condition_length:
        raise ValueError(f"{characters} characters: at most {network.condition_length - 1} can be read")
    return longest


def _conditions(wishes: Sequence[Wish]) -> tuple[Tensor, list[int]]:
    """What the network is told of each clip, right-padded, and how much of it that is."""
    rows = [torch.cat([torch.tensor([float(wish.samples)]), wish.characters.float()]) for wish in wishes]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), [len(row) for row in rows]


def _noise(seed: int, count: int) -> NDArray[np.float64]:
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def _draw(logits: Tensor, noise: Tensor, temperatures: Tensor) -> Tensor:
    """One code a row: logits [B, V], noise [B] in [0, 1), temperatures [B, 1]."""
    cumulative = torch.softmax(logits.double() / temperatures, 1).cumsum(1)
    return torch.searchsorted(cumulative, (noise * cumulative[:, -1])[:, None], right=True)[:, 0].clamp_max(
        logits.shape[1] - 1
    )
