"""What the two players of a GAN minimise, by name, and the gradient penalties that keep the discriminator smooth.

Knows logits and gradients; knows no networks.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Loss(NamedTuple):
    """The scalar that each player minimises."""

    discriminator: "Player"
    generator: "Player"


class Player(Protocol):
    """From logits of real and of generated pictures of the same labels, each [N], to a scalar."""

    def __call__(self, real: Tensor, fake: Tensor, /) -> Tensor:
        """The loss."""
        ...


class Critic(Protocol):
    """Pictures to logits."""

    def __call__(self, samples: Tensor, /) -> Tensor:
        """[N, C, H, W] -> [N]."""
        ...


LOSSES: Mapping[str, Loss] = {
    # Goodfellow et al. 2014, arXiv 1406.2661: the minimax game of equation 1, and section 3's, where the generator
    # maximises log D instead of minimising log (1 - D).
    "saturating": Loss(
        lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
        lambda _, fake: -F.softplus(fake).mean(),
    ),
    "non-saturating": Loss(
        lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
        lambda _, fake: F.softplus(-fake).mean(),
    ),
    # Lim & Ye 2017, arXiv 1705.02894; Miyato et al. 2018.
    "hinge": Loss(
        lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
        lambda _, fake: -fake.mean(),
    ),
    # Arjovsky et al. 2017, arXiv 1701.07875; with the penalty "interpolated" it is WGAN-GP.
    "wasserstein": Loss(
        lambda real, fake: (fake - real).mean(),
        lambda _, fake: -fake.mean(),
    ),
    # Jolicoeur-Martineau 2019, arXiv 1807.00734; with the penalty "r1+r2" it is R3GAN (Huang et al. 2024, 2501.05441).
    "relativistic": Loss(
        lambda real, fake: F.softplus(fake - real).mean(),
        lambda real, fake: F.softplus(real - fake).mean(),
    ),
}


def zero_centred(logits: Tensor, samples: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """R1 and R2 (Mescheder et al. 2018): mean squared norms of d logit / d sample.

    Args:
        logits: [2 * count], of real pictures, then of generated ones.
        samples: [2 * count, C, H, W], on which the logits depend.
        count: of real pictures.

    Returns:
        Over the real pictures and over the generated ones.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), samples, create_graph=True)
    squared = gradient.float().square().flatten(1).sum(1)
    return squared[:count].mean(), squared[count:].mean()


def one_centred(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """WGAN-GP (Gulrajani et al. 2017): mean of (|d logit / d sample| - 1)^2 at random points between pairs."""
    share = torch.rand(len(real), 1, 1, 1, device=real.device)
    between = torch.lerp(real, fake, share).requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    norms: Tensor = torch.linalg.vector_norm(gradient.float().flatten(1), dim=1)
    return (norms - 1).square().mean()
