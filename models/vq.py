"""A discrete autoencoder: pictures as a small square of code numbers (VQ-VAE; van den Oord et al. 2017).

Knows the encoder, the codebook and the decoder. How the codebook is learnt lives in `training`.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.decoder import check_sizes
from models.upsampling import NORM_GROUPS, UpsamplingStack


class VQVAE(nn.Module):
    """Latents are code numbers, [N, side, side] as floats; an `EncodingModel` without classes.

    Attributes:
        num_codes: numbers from 0 up to this one, not included, are codes. Noise makes no picture.
    """

    num_classes = 0

    def __init__(
        self,
        *,
        num_codes: int = 1024,
        code_dim: int = 64,
        channels: Sequence[int] = (128, 64, 32),
        hidden: int = 64,
        blocks: int = 2,
        base_size: int = 8,
        image_channels: int = 3,
    ) -> None:
        """Build encoder, codebook and decoder.

        Args:
            num_codes: entries K of the codebook.
            code_dim: length D of an entry.
            channels: feature maps of the decoder at each resolution, from the codes upwards; the encoder mirrors it.
            hidden: features inside a residual block.
            blocks: residual blocks at the codes' resolution, on either side.
            base_size: side of the square of codes.
            image_channels: 1, 3 or 4.

        Raises:
            ValueError: a size is not positive, or the channels can't be built as asked.
        """
        super().__init__()
        check_sizes(num_codes=num_codes, code_dim=code_dim, hidden=hidden, blocks=blocks, base_size=base_size)
        self.num_codes = num_codes
        self.latent_shape: tuple[int, ...] = (base_size, base_size)
        self.stack = UpsamplingStack(channels, base_size, image_channels)
        self.encoder = _Encoder(tuple(reversed(channels)), image_channels, hidden, blocks)
        self.to_code = nn.Conv2d(channels[0], code_dim, 1)
        self.register_buffer("codebook", torch.randn(num_codes, code_dim))
        self.from_code = nn.Conv2d(code_dim, channels[0], 3, padding=1)
        self.refine = nn.Sequential(*(_Residual(channels[0], hidden) for _ in range(blocks)))

    def features(self, samples: Tensor) -> Tensor:
        """What the codebook is asked for: [N, C, H, W] in [-1, 1] -> [N, D, side, side]."""
        out: Tensor = self.to_code(self.encoder(samples))
        return out

    def nearest(self, features: Tensor) -> Tensor:
        """The nearest code of each place, in float32: [N, D, side, side] -> [N, side, side] int64."""
        entries = self.entries.float()
        rows = features.permute(0, 2, 3, 1).flatten(0, 2).float()
        distances = entries.square().sum(1) - 2 * rows @ entries.T  # and what all distances of a row share
        return distances.argmin(1).view(len(features), *self.latent_shape)

    def look_up(self, codes: Tensor) -> Tensor:
        """Entries of the codebook: [N, side, side] int64 -> [N, D, side, side]."""
        return F.embedding(codes, self.entries).permute(0, 3, 1, 2)

    def draw(self, quantised: Tensor) -> Tensor:
        """Entries of the codebook to pictures, unbounded: [N, D, side, side] -> [N, C, H, W]."""
        out: Tensor = self.stack(self.refine(self.from_code(quantised)).flatten(1))
        return out

    @property
    def entries(self) -> Tensor:
        """The codebook, [K, D]."""
        assert isinstance(self.codebook, Tensor)
        return self.codebook

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:  # noqa: ARG002  # there are no classes
        """Code numbers to pictures: [N, side, side] -> [N, C, H, W] in [-1, 1]; numbers are rounded and clamped.

        Raises:
            ValueError: latents of a kind of number that can't tell all codes apart, such as bfloat16 above 256.
        """
        if latents.is_floating_point() and torch.finfo(latents.dtype).eps * self.num_codes > 2:
            raise ValueError(f"{latents.dtype} can't tell {self.num_codes} codes apart")
        codes = latents.round().clamp(0, self.num_codes - 1).long()
        return self.draw(self.look_up(codes)).clamp(-1, 1)

    def encode(self, samples: Tensor, labels: Tensor, /) -> Tensor:  # noqa: ARG002
        """Pictures to code numbers: [N, C, H, W] in [-1, 1] -> [N, side, side] float32."""
        return self.nearest(self.features(samples)).float()


class _Encoder(nn.Module):
    """Pictures to feature maps: the side is halved between two resolutions, the lowest one is refined."""

    def __init__(self, channels: Sequence[int], image_channels: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.from_image = nn.Conv2d(image_channels, channels[0], 3, padding=1)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in itertools.pairwise(channels))
        self.norms = nn.ModuleList(nn.GroupNorm(NORM_GROUPS, c) for c in channels[1:])
        self.refine = nn.Sequential(*(_Residual(channels[-1], hidden) for _ in range(blocks)))

    def forward(self, samples: Tensor) -> Tensor:
        x = F.leaky_relu(self.from_image(samples), 0.2)
        for down, norm in zip(self.downs, self.norms, strict=True):
            x = F.leaky_relu(norm(down(x)), 0.2)
        out: Tensor = self.refine(x)
        return out


class _Residual(nn.Module):
    """A 3x3 and a 1x1 convolution beside their input."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(NORM_GROUPS, channels)
        self.first = nn.Conv2d(channels, hidden, 3, padding=1)
        self.second = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same."""
        out: Tensor = x + self.second(F.leaky_relu(self.first(F.leaky_relu(self.norm(x), 0.2)), 0.2))
        return out
