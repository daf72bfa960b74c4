"""Latent models with gradients that make tests of what improves latents exact; and critics for them.

A served process gets them the way an operator's own models come: `GENSERVE_MODELS_MODULE=tests.fake_refiners`.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

import models
from models import checkpoint
from tests import fakes


class GatedEcho(fakes.EchoLatents):
    """Paints its latent; a step along its gradients waits at its gate while that is there, and is counted in a file."""

    def __init__(self, *, steps_gate: str = "", count: str = "", **config) -> None:
        super().__init__(**config)
        self.steps_gate, self.count = steps_gate, count

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        if latents.requires_grad and self.count and Path(self.steps_gate).exists():
            with Path(self.count).open("a") as file:
                file.write("step\n")
            fakes._wait_at(Path(self.steps_gate))
        return super().decode(latents, labels)


class Rounds(fakes.EchoLatents):
    """Has no gradients: what it paints is a whole number."""

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        return super().decode(latents.detach().round(), labels)


class InPlace(fakes.EchoLatents):
    """Was only meant to run forwards: it changes what it is given."""

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        return super().decode(latents.mul_(1.0), labels)


class Bright(nn.Module):
    """A critic that takes bright pictures for real; where a picture is all but black it has no opinion at all."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        return self.weight * samples.flatten(1).mean(1)


class Undecided(nn.Module):
    """A critic whose weights are finite and whose opinion is not."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        return self.weight * samples.flatten(1).mean(1) / 0.0


LATENT = {"gated-echo": GatedEcho, "rounds": Rounds, "in-place": InPlace}
models.LATENT_MODELS.update(LATENT)
fakes.LATENT.update(LATENT)
models.CRITICS.update({"bright": Bright, "undecided": Undecided})


def write(weights: Path, name: str, architecture: str = "gated-echo", *, critic: str = "bright", **config) -> Path:
    """A weights folder of a fake, with a critic unless that is ""."""
    folder = fakes.write(weights, name, architecture, **config)
    if critic:
        network = models.CRITICS[critic]()
        checkpoint.write_critic(folder, network, architecture=critic, config={}, scale=8.0, step_size=0.1, card={})
    return folder
