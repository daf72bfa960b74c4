"""InfoGAN (Chen et al. 2016, arXiv 1606.03657): a generator whose codes a second head of the discriminator reads back.

The labels of this generator are categories that it finds by itself: nothing here is ever told the classes of the data.
The losses live in `training`; this file knows only the two networks.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.gan import ConvDiscriminator, ConvGenerator

UNREAD = math.log(1 / 3)  # log of the variance of a uniform code, which is its error where nothing is read of it
GROUP = 8  # samples whose variety the discriminator sees; real and generated ones come in multiples of it
LEAST_VARIANCE = 1e-4  # of a feature, so that its root has a slope where nothing varies
LEAST_LOG_VARIANCE, MOST_LOG_VARIANCE = -4.0, 2.0  # no code is read so well that its error rules all training


class Reading(NamedTuple):
    """What is read in pictures.

    Attributes:
        categories: logits, [N, categories].
        means: of the codes, [N, codes].
        log_variances: [N, codes].
    """

    categories: Tensor
    means: Tensor
    log_variances: Tensor


class InfoGenerator(ConvGenerator):
    """A convolutional generator, the last entries of whose latent are codes; a `LatentModel`."""

    def __init__(self, *, codes: int = 2, **shared: Any) -> None:
        """Build the generator.

        Args:
            codes: how many entries of the latent are codes.
            shared: arguments of `ConvGenerator`; `latent_dim` counts the codes, and `num_classes` categories.

        Raises:
            ValueError: the latent has no room for the codes.
        """
        super().__init__(**shared)
        (latent_dim,) = self.latent_shape
        if not 0 < codes < latent_dim:
            raise ValueError(f"codes must be at least 1 and below latent_dim, got {codes} of {latent_dim}")
        self.codes = codes

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        """[N, latent_dim], [N] -> [N, C, H, W] in [-1, 1]."""
        noise, codes = latents[:, : -self.codes], latents[:, -self.codes :]
        return super().decode(torch.cat([noise, even(codes)], dim=1), labels)

    forward = decode


def even(codes: Tensor) -> Tensor:
    """Standard normal numbers as uniform ones in (-1, 1), by the normal's distribution function; of any shape.

    Turned codes of a normal distribution would be as good as the codes: a network could not tell which directions are
    meant. A square has corners.
    """
    return torch.erf(codes * math.sqrt(0.5))


class InfoDiscriminator(ConvDiscriminator):
    """An unconditional discriminator with a head that reads category and codes in what it sees (Q in the paper).

    Both heads share a hidden layer, which sees all positions and how much the samples of a group differ: without labels
    a discriminator has no other way to see that pictures of a kind are too much alike.
    """

    def __init__(self, *, categories: int = 10, codes: int = 2, hidden: int = 128, **shared: Any) -> None:
        """Build the discriminator.

        Args:
            categories: how many are told apart.
            codes: how many are read.
            hidden: width of the layer that both heads share.
            shared: arguments of `ConvDiscriminator` but for `num_classes`.
        """
        super().__init__(num_classes=0, **shared)
        self.categories, self.codes = categories, codes
        self.to_hidden = nn.Linear(self.pool.weight.numel() + self.score.in_features, hidden)
        del self.pool
        self.score = nn.Linear(hidden, 1)
        self.to_reading = nn.Linear(hidden, categories + 2 * codes)

    def features(self, samples: Tensor) -> Tensor:
        """[N, C, H, W] in [-1, 1] -> [N, hidden]."""
        maps = self.maps(samples)
        return F.leaky_relu(self.to_hidden(torch.cat([maps.flatten(1), _variety(maps)], dim=1)), 0.2)

    def look(self, samples: Tensor) -> tuple[Tensor, Reading]:
        """[N, C, H, W] in [-1, 1] -> [N] logits, larger for samples that look real, and what is read in them."""
        features = self.features(samples)
        read = self.to_reading(features).float()
        categories, means, log_variances = read.split([self.categories, self.codes, self.codes], dim=1)
        bounded = (log_variances + UNREAD).clamp(LEAST_LOG_VARIANCE, MOST_LOG_VARIANCE)
        return self.score(features).squeeze(1), Reading(categories, means, bounded)


def _variety(maps: Tensor) -> Tensor:
    """How much samples that stand beside each other differ, [N, C, h, w] -> [N, C]: deviations in groups.

    After Karras et al. 2018 (arXiv 1710.10196, section 3), but channel by channel.
    """
    count, channels = maps.shape[:2]
    group = GROUP if count % GROUP == 0 else count
    grouped = maps.reshape(count // group, group, channels, -1).float()
    deviations = (grouped.var(1, correction=0) + LEAST_VARIANCE).sqrt().mean(2)
    return deviations.repeat_interleave(group, dim=0).to(maps.dtype)
