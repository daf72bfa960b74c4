"""The textbook's GAN: fully connected generator and discriminator (Goodfellow et al. 2014, arXiv 1406.2661).

Labels enter as in Mirza & Osindero 2014 (arXiv 1411.1784): an embedding beside the input.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class MLPGenerator(nn.Module):
    """Linear layers with leaky ReLU, tanh at the end; a `LatentModel`."""

    def __init__(
        self,
        *,
        latent_dim: int = 100,
        num_classes: int = 10,
        embedding_dim: int = 10,
        widths: Sequence[int] = (128, 256, 512, 1024),
        image_shape: Sequence[int] = (1, 28, 28),
    ) -> None:
        """Build the generator.

        Args:
            latent_dim: length of a latent, standard normal.
            num_classes: number of labels; 0 for an unconditional generator.
            embedding_dim: length of a label's embedding.
            widths: of the hidden layers.
            image_shape: channels (1, 3 or 4), height and width.
        """
        super().__init__()
        self.latent_shape: tuple[int, ...] = (latent_dim,)
        self.num_classes = num_classes
        self.embedding = nn.Embedding(num_classes, embedding_dim) if num_classes else None
        first = latent_dim + (embedding_dim if num_classes else 0)
        self.layers = nn.Sequential(*_layers((first, *widths, math.prod(image_shape))), nn.Tanh())
        self._image_shape = tuple(image_shape)

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        """[N, latent_dim], [N] -> [N, C, H, W] in [-1, 1]."""
        if self.embedding is not None:
            latents = torch.cat([latents, self.embedding(labels)], dim=1)
        samples: Tensor = self.layers(latents)
        return samples.view(-1, *self._image_shape)

    forward = decode


class MLPDiscriminator(nn.Module):
    """Linear layers with leaky ReLU over all pixels and the label's embedding."""

    def __init__(
        self,
        *,
        num_classes: int = 10,
        embedding_dim: int = 10,
        widths: Sequence[int] = (512, 256),
        image_shape: Sequence[int] = (1, 28, 28),
    ) -> None:
        """Build the discriminator; the arguments mean what they mean for `MLPGenerator`."""
        super().__init__()
        self.embedding = nn.Embedding(num_classes, embedding_dim) if num_classes else None
        first = math.prod(image_shape) + (embedding_dim if num_classes else 0)
        self.layers = nn.Sequential(*_layers((first, *widths, 1)))

    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        """[N, C, H, W] in [-1, 1], [N] -> [N] logits, larger for samples that look real."""
        features = samples.flatten(1)
        if self.embedding is not None:
            features = torch.cat([features, self.embedding(labels)], dim=1)
        logits: Tensor = self.layers(features)
        return logits.squeeze(1)


def _layers(widths: Sequence[int]) -> Iterator[nn.Module]:
    """Linear layers through these widths, an activation between each two."""
    *pairs, last = itertools.pairwise(widths)
    for before, after in pairs:
        yield nn.Linear(before, after)
        yield nn.LeakyReLU(0.2)
    yield nn.Linear(*last)
