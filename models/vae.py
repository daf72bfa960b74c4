"""A class-conditional convolutional variational autoencoder (Kingma & Welling 2014; Sohn et al. 2015).

The objective lives in `training`; this file knows the encoder, the decoder and what their outputs mean.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.upsampling import NORM_GROUPS, UpsamplingStack


class ConvVAE(nn.Module):
    """Encoder q(z | x, y) = N(mean, exp(log_variance)), decoder p(x | z, y) Bernoulli per pixel; an `EncodingModel`."""

    def __init__(
        self,
        *,
        latent_dim: int = 32,
        num_classes: int = 10,
        embedding_dim: int = 32,
        channels: Sequence[int] = (128, 64, 32),
        base_size: int = 7,
        image_channels: int = 1,
    ) -> None:
        """Build encoder and decoder; the arguments mean what they mean for `models.gan.ConvGenerator`."""
        super().__init__()
        self.latent_shape: tuple[int, ...] = (latent_dim,)
        self.num_classes = num_classes
        extra = embedding_dim if num_classes else 0
        self.embedding = nn.Embedding(num_classes, embedding_dim) if num_classes else None
        self.stack = UpsamplingStack(channels, base_size, image_channels)
        self.project = nn.Linear(latent_dim + extra, self.stack.in_features)
        self.encoder = _Encoder(tuple(reversed(channels)), image_channels)
        self.to_posterior = nn.Linear(self.stack.in_features + extra, 2 * latent_dim)

    def _with_label(self, features: Tensor, labels: Tensor) -> Tensor:
        return features if self.embedding is None else torch.cat([features, self.embedding(labels)], dim=1)

    def posterior(self, samples: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C, H, W] in [-1, 1], [N] -> mean and log variance of q(z | x, y), each [N, latent_dim]."""
        features = self.encoder(samples).flatten(1)
        mean, log_variance = self.to_posterior(self._with_label(features, labels)).chunk(2, dim=1)
        return mean, log_variance.clamp(-12.0, 8.0)  # keeps exp() finite in reduced precision

    def logits(self, latents: Tensor, labels: Tensor) -> Tensor:
        """[N, latent_dim], [N] -> Bernoulli logits of each pixel being white, [N, C, H, W]."""
        out: Tensor = self.stack(self.project(self._with_label(latents, labels)))
        return out

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        """[N, latent_dim], [N] -> the mean picture, [N, C, H, W] in [-1, 1]."""
        return torch.tanh(self.logits(latents, labels) / 2)  # 2 * sigmoid(l) - 1

    def encode(self, samples: Tensor, labels: Tensor, /) -> Tensor:
        """[N, C, H, W] in [-1, 1], [N] -> the posterior mean, [N, latent_dim]."""
        return self.posterior(samples, labels)[0]


class _Encoder(nn.Module):
    """Pictures to feature maps: the mirror image of the upsampling stack."""

    def __init__(self, channels: Sequence[int], image_channels: int) -> None:
        super().__init__()
        self.from_image = nn.Conv2d(image_channels, channels[0], 3, padding=1)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in itertools.pairwise(channels))
        self.norms = nn.ModuleList(nn.GroupNorm(NORM_GROUPS, c) for c in channels[1:])

    def forward(self, samples: Tensor) -> Tensor:
        x = F.leaky_relu(self.from_image(samples), 0.2)
        for down, norm in zip(self.downs, self.norms, strict=True):
            x = F.leaky_relu(norm(down(x)), 0.2)
        return x
