"""The network of the fault tests, the same at every server: quick, save for two seeds, and it notes what it computes.

A served process knows it by `GENSERVE_MODELS_MODULE=benchmarks.peers.faults`; the peers' programs import this module
and then load the same weights folder. It recognises a seed by the first number of its latent.
"""

import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import models
from app import latents
from models import checkpoint

NAME = "faulty"
SHAPE = (4,)
SIDE = 8
POISON, SLOW = 13, 14  # seeds: a batch that holds the first raises, one that holds the second takes its time
SECONDS, SLOW_SECONDS = 0.005, 1.0  # of a batch
LOG, TIMEOUT = "FAULT_LOG", "FAULT_TIMEOUT"  # environment: the file for notes; seconds that a peer gives a request


def mark(seed: int) -> float:
    """How a seed looks in a batch."""
    return float(latents.from_seed(seed, SHAPE, 0)[0][0])


def timeout(default: float) -> float:
    """Seconds that a peer gives a request: its own default, unless a fault asks for less."""
    return float(os.environ.get(TIMEOUT, default))


class Faulty(nn.Module):
    """Paints its latents; see above."""

    def __init__(self) -> None:
        super().__init__()
        self.latent_shape, self.num_classes = SHAPE, 0
        self.weight = nn.Parameter(torch.ones(1))
        self._poison, self._slow = mark(POISON), mark(SLOW)

    def decode(self, z: Tensor, labels: Tensor, /) -> Tensor:  # noqa: ARG002  # the protocol's signature
        marks = z[:, 0].tolist()
        note(marks)
        time.sleep(SLOW_SECONDS if self._slow in marks else SECONDS)
        if self._poison in marks:
            raise ValueError("a poisoned latent")
        return z.clamp(-1, 1).repeat(1, SIDE * SIDE // SHAPE[0]).view(-1, 1, SIDE, SIDE)


def note(marks: list[float]) -> None:
    """One line a batch: process and marks; one write, so that lines of several processes do not mix."""
    if path := os.environ.get(LOG):
        line = " ".join([str(os.getpid()), *map(float.hex, marks)])
        with Path(path).open("ab", buffering=0) as file:
            file.write(line.encode() + b"\n")


def write(weights: Path) -> Path:
    """The weights folder, below `weights`."""
    card = {"description": "For fault tests only."}
    checkpoint.save(weights / NAME, Faulty(), architecture=NAME, config={}, card=card)
    return weights / NAME


models.LATENT_MODELS[NAME] = Faulty
