"""A class-conditional convolutional GAN: generator and projection discriminator.

The losses live in `training`; this file knows only the two networks.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.upsampling import UpsamplingStack


class ConvGenerator(nn.Module):
    """DCGAN-style generator (Radford et al. 2016) with a label embedding beside the latent; a `LatentModel`."""

    def __init__(
        self,
        *,
        latent_dim: int = 64,
        num_classes: int = 10,
        embedding_dim: int = 32,
        channels: Sequence[int] = (128, 64, 32),
        base_size: int = 7,
        image_channels: int = 1,
    ) -> None:
        """Build the generator; pictures have side base_size * 2 ** (len(channels) - 1).

        Args:
            latent_dim: length of a latent, standard normal.
            num_classes: number of labels; 0 for an unconditional generator.
            embedding_dim: length of a label's embedding.
            channels: feature maps at each resolution, each a multiple of 8.
            base_size: side of the first feature map.
            image_channels: 1, 3 or 4.
        """
        super().__init__()
        self.latent_shape: tuple[int, ...] = (latent_dim,)
        self.num_classes = num_classes
        self.embedding = nn.Embedding(num_classes, embedding_dim) if num_classes else None
        self.stack = UpsamplingStack(channels, base_size, image_channels)
        self.project = nn.Linear(latent_dim + (embedding_dim if num_classes else 0), self.stack.in_features)

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        """[N, latent_dim], [N] -> [N, C, H, W] in [-1, 1]."""
        if self.embedding is not None:
            latents = torch.cat([latents, self.embedding(labels)], dim=1)
        return torch.tanh(self.stack(self.project(latents)))

    forward = decode


class ConvDiscriminator(nn.Module):
    """Projection discriminator (Miyato & Koyama 2018) without normalisation, as R3GAN (arXiv 2501.05441) advises."""

    def __init__(
        self,
        *,
        num_classes: int = 10,
        channels: Sequence[int] = (48, 96, 192),
        image_size: int = 28,
        image_channels: int = 1,
    ) -> None:
        """Build the discriminator; each entry of `channels` halves the side of the picture."""
        super().__init__()
        last, side = channels[-1], image_size // 2 ** len(channels)
        self.from_image = nn.Conv2d(image_channels, channels[0], 4, stride=2, padding=1)
        self.stages = nn.ModuleList(
            nn.ModuleList([nn.Conv2d(a, b, 4, stride=2, padding=1), nn.Conv2d(b, b, 3, padding=1)])
            for a, b in itertools.pairwise(channels)
        )
        self.pool = nn.Conv2d(last, last, side, groups=last)  # one learnt weighting of the positions per channel
        self.score = nn.Linear(last, 1)
        self.embedding = nn.Embedding(num_classes, last) if num_classes else None

    def features(self, samples: Tensor) -> Tensor:
        """[N, C, H, W] in [-1, 1] -> [N, channels[-1]]."""
        return F.leaky_relu(self.pool(self.maps(samples)).flatten(1), 0.2)

    def maps(self, samples: Tensor) -> Tensor:
        """[N, C, H, W] in [-1, 1] -> [N, channels[-1], side, side]: the features by position."""
        x = F.leaky_relu(self.from_image(samples), 0.2)
        for stage in self.stages:
            for layer in stage:  # type: ignore[attr-defined]  # nn.ModuleList hides its element type
                x = F.leaky_relu(layer(x), 0.2)
        return x

    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        """[N, C, H, W] in [-1, 1], [N] -> [N] logits, larger for samples that look real."""
        features = self.features(samples)
        logits: Tensor = self.score(features).squeeze(1)
        if self.embedding is not None:
            logits = logits + (self.embedding(labels) * features).sum(1) / features.shape[1] ** 0.5
        return logits
