"""A trained discriminator that is served beside its generator, and how its opinion of pictures moves latents.

Knows networks and numbers; files are `models.checkpoint`'s business. A discriminator's own logits are no log ratio of
densities unless it was trained to the end without a penalty: a scale, fitted to held-out pictures, makes them one but
for a constant of each class (Turner et al. 2019, arXiv 1811.11357, section 3), which no gradient sees.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from models.protocols import LatentModel

MAX_SCALE = 1e4
MAX_STEP = 1.0


@dataclass(frozen=True)
class CriticFile:
    """The critic beside a latent model's weights, as `config.json` says it: `critic.safetensors`.

    Attributes:
        architecture: key of `models.CRITICS`.
        config: keyword arguments of the network's constructor.
        sha256: of the file.
        size: of the file, bytes.
        scale: of its logits.
        step_size: of a sampler that follows it: the variance of one step's noise.
        card: how the scale was found, and what sampling gains; shown to users.
    """

    architecture: str
    config: Mapping[str, Any]
    sha256: str
    size: int
    scale: float
    step_size: float
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def faults(self) -> list[str]:
        """The fields that are not what they should be."""
        kinds = {"architecture": str, "config": dict, "sha256": str, "size": int, "card": dict}
        wrong = [name for name, kind in kinds.items() if not isinstance(getattr(self, name), kind)]
        bounds = {"scale": MAX_SCALE, "step_size": MAX_STEP}
        return wrong + [name for name, most in bounds.items() if not _within(getattr(self, name), most)]


def _within(value: object, most: float) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) and 0 < value <= most


@dataclass(frozen=True)
class Critic:
    """A verified discriminator in evaluation mode, and how to read and follow it."""

    network: nn.Module
    scale: float
    step_size: float

    def log_ratio(self, samples: Tensor, labels: Tensor) -> Tensor:
        """[N, C, H, W] in [-1, 1], [N] -> log of real to generated density, up to a constant of each class, [N]."""
        logits: Tensor = self.network(samples, labels)
        return self.scale * logits


def langevin_step(model: LatentModel, critic: Critic, latents: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
    """One step of discriminator-driven latent sampling (Che et al. 2020, arXiv 2003.06060), with gradients enabled.

    A generator with its discriminator is an energy-based model of latents, of energy |z|^2 / 2 - log ratio(G(z)): down
    its gradient by half the step size, and noise of that variance.

    Args:
        model: whose latents are standard normal; its parameters frozen.
        critic: that belongs to it.
        latents: [N, *latent_shape].
        labels: [N].
        noise: [N, *latent_shape], standard normal.

    Returns:
        The next latents [N, *latent_shape]; row i depends on row i alone.
    """
    z = latents.detach().clone().requires_grad_(True)
    energy = (0.5 * z.square()).sum() - critic.log_ratio(model.decode(z, labels), labels).sum()
    (gradient,) = torch.autograd.grad(energy, z)
    return latents - 0.5 * critic.step_size * gradient + math.sqrt(critic.step_size) * noise
