"""Latents as the service draws them: standard normal, and of unit length for a style-based generator.

Knows distributions, not seeds: the service draws with its own generator, from a request's seed.
"""

import torch
from torch import Tensor

from models.protocols import LatentModel
from models.style_gan import StyleGenerator


def draw_latents(
    model: LatentModel, count: int, generator: torch.Generator | None = None, device: torch.device | None = None
) -> Tensor:
    """Random latents [count, *latent_shape], float32, from this generator or torch's global one, on this device."""
    if not isinstance(model, StyleGenerator):
        return torch.randn(count, *model.latent_shape, generator=generator, device=device)
    styles, dim = model.latent_shape
    drawn = torch.randn(count, 1, dim, generator=generator, device=device)
    return (drawn / drawn.square().mean(2, keepdim=True).sqrt()).expand(count, styles, dim)


def mixed(latents: Tensor, probability: float) -> Tensor:
    """Style mixing (Karras et al. 2019, section 3.1): from a random row on, the rows of another latent of the batch.

    Args:
        latents: [N, styles, dim].
        probability: with which a latent is mixed at all.
    """
    count, styles, _ = latents.shape
    chosen = torch.rand(count, device=latents.device) < probability
    begin = torch.randint(1, max(2, styles), (count,), device=latents.device)
    begin = torch.where(chosen, begin, styles)
    rows = torch.arange(styles, device=latents.device)
    return torch.where((rows >= begin[:, None])[:, :, None], latents.roll(1, 0), latents)
