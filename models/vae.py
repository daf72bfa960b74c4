"""A class-conditional convolutional variational autoencoder (Kingma & Welling 2014; Sohn et al. 2015).

The prior of the codes may be a flow that is trained with the rest (Chen et al. 2017, arXiv 1611.02731): then the
latents at the edge are the flow's standard normal noise, and the decoder meets at work the codes it met in training.
The objective lives in `training`; this file knows the encoder, the prior, the decoder and what their outputs mean.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.flow import CouplingFlow
from models.upsampling import NORM_GROUPS, UpsamplingStack

DARKEST = 2.0**-10  # mean of a black pixel: 0 of 255 when rounded, yet no grey pixel is impossible


class ConvVAE(nn.Module):
    """Encoder q(z | x, y) = N(mean, exp(log_variance)), decoder p(x | z, y) Bernoulli per pixel; an `EncodingModel`.

    Latents are standard normal; codes z are what the decoder reads. They are the same without a flow.

    A mean of all that a code may stand for is blurred, with a haze where a sleeve might be. A network that is not
    being trained therefore finishes the means: it sharpens them and makes what is almost black black. Pictures and
    bound are of the finished means alike; training leaves the finish out, since the bound alone would undo it.
    """

    def __init__(
        self,
        *,
        latent_dim: int = 32,
        num_classes: int = 10,
        embedding_dim: int = 32,
        channels: Sequence[int] = (128, 64, 32),
        base_size: int = 7,
        image_channels: int = 1,
        flow_layers: int = 0,
        flow_width: int = 64,
        sharpness: float = 0.0,
        black_level: float = 0.0,
    ) -> None:
        """Build encoder, prior and decoder.

        Args:
            latent_dim: length of a latent and of a code; even where there is a flow.
            num_classes: 0 for an unconditional model.
            embedding_dim: length of a label's embedding.
            channels: feature maps of the decoder at each resolution, from the base upwards; the encoder mirrors it.
            base_size: side of the first feature map.
            image_channels: 1, 3 or 4.
            flow_layers: couplings of the prior p(z | y); 0 for N(0, 1).
            flow_width: hidden units of each.
            sharpness: share of its difference from the mean of the 3x3 pixels around it that is added to each pixel.
            black_level: grey level in [0, 1) under which a pixel is made black.

        Raises:
            ValueError: the channels or the flow can't be built as asked, or a number is out of range.
        """
        super().__init__()
        if sharpness < 0 or not 0 <= black_level < 1:
            raise ValueError(f"sharpness {sharpness} must be >= 0 and black_level {black_level} in [0, 1)")
        self.sharpness, self.black_level = sharpness, black_level
        self.latent_shape: tuple[int, ...] = (latent_dim,)
        self.num_classes = num_classes
        extra = embedding_dim if num_classes else 0
        self.embedding = nn.Embedding(num_classes, embedding_dim) if num_classes else None
        self.stack = UpsamplingStack(channels, base_size, image_channels)
        self.project = nn.Linear(latent_dim + extra, self.stack.in_features)
        self.encoder = _Encoder(tuple(reversed(channels)), image_channels)
        self.to_posterior = nn.Linear(self.stack.in_features + extra, 2 * latent_dim)
        self.prior = _prior(latent_dim, flow_layers, flow_width, num_classes, embedding_dim)

    def _with_label(self, features: Tensor, labels: Tensor) -> Tensor:
        return features if self.embedding is None else torch.cat([features, self.embedding(labels)], dim=1)

    def posterior(self, samples: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C, H, W] in [-1, 1], [N] -> mean and log variance of q(z | x, y), each [N, latent_dim]."""
        features = self.encoder(samples).flatten(1)
        mean, log_variance = self.to_posterior(self._with_label(features, labels)).chunk(2, dim=1)
        return mean, log_variance.clamp(-12.0, 8.0)  # keeps exp() finite in reduced precision

    def divergence(self, mean: Tensor, log_variance: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        """KL(q(z | x, y) || p(z | y)) in nats, [N]; under a flow, its estimate at z = mean + noise * deviation.

        The noise's own density is taken at the same draw, so that a code that says nothing adds exactly nothing.
        """
        if self.prior is None:
            return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        latents, log_det = self.prior.inverse(mean + noise * (log_variance / 2).exp(), labels)
        return 0.5 * (latents.square() - noise.square() - log_variance).sum(1) - log_det

    def logits(self, codes: Tensor, labels: Tensor) -> Tensor:
        """[N, latent_dim], [N] -> Bernoulli logits of each pixel being white, [N, C, H, W]; in training unfinished."""
        out: Tensor = self.stack(self.project(self._with_label(codes, labels)))
        return out if self.training else self._finish(out)

    def _finish(self, logits: Tensor) -> Tensor:
        if not (self.sharpness or self.black_level):
            return logits
        means = torch.sigmoid(logits.float())
        sharp = means + self.sharpness * (means - F.avg_pool2d(means, 3, stride=1, padding=1))  # black all around
        clean = torch.where(sharp < self.black_level, 0.0, sharp).clamp(DARKEST, 1 - DARKEST)
        return torch.logit(clean).to(logits.dtype)

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        """[N, latent_dim], [N] -> the mean picture, [N, C, H, W] in [-1, 1]."""
        codes = latents if self.prior is None else self.prior(latents, labels)
        return torch.tanh(self.logits(codes, labels) / 2)  # 2 * sigmoid(l) - 1

    def encode(self, samples: Tensor, labels: Tensor, /) -> Tensor:
        """[N, C, H, W] in [-1, 1], [N] -> the latents of the posterior mean, [N, latent_dim]."""
        codes = self.posterior(samples, labels)[0]
        return codes if self.prior is None else self.prior.inverse(codes, labels)[0]


def _prior(dim: int, layers: int, width: int, num_classes: int, embedding_dim: int) -> CouplingFlow | None:
    if not layers:
        return None
    return CouplingFlow(dim=dim, layers=layers, width=width, num_classes=num_classes, embedding_dim=embedding_dim)


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
