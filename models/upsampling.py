"""The convolutional stack that turns a feature map into a picture, shared by the GAN generator and the VAE decoder.

Knows no latents and no labels: those are the business of the model that owns the stack.
"""

import itertools
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

NORM_GROUPS = 8


class UpsamplingStack(nn.Module):
    """Feature vectors to pictures: each stage doubles the side with a transposed convolution.

    A 4x4 transposed convolution of stride 2 spans every "nearest upsampling, then 3x3 convolution" at 16/36 of its
    cost, and its kernel is a multiple of its stride, which avoids the checkerboard of Odena et al. (2016). GroupNorm
    (Wu & He 2018) has no batch statistics, so a row never depends on its batch-mates.
    """

    def __init__(self, channels: Sequence[int], base_size: int, image_channels: int) -> None:
        """Build the stack.

        Args:
            channels: feature maps at each resolution, from the base upwards; each a multiple of 8.
            base_size: side of the first feature map; pictures have side base_size * 2 ** (len(channels) - 1).
            image_channels: channels of the picture.

        Raises:
            ValueError: a channel count is not a positive multiple of 8, or `channels` is empty.
        """
        super().__init__()
        if not channels or any(c <= 0 or c % NORM_GROUPS for c in channels):
            raise ValueError(f"channels must be positive multiples of {NORM_GROUPS}, got {list(channels)}")
        self.base_shape = (channels[0], base_size, base_size)
        self.base_norm = nn.GroupNorm(NORM_GROUPS, channels[0])
        self.stages = nn.ModuleList(_Stage(a, b) for a, b in itertools.pairwise(channels))
        self.to_image = nn.Conv2d(channels[-1], image_channels, 3, padding=1)

    @property
    def in_features(self) -> int:
        """Length of the feature vector that the stack reads."""
        channels, height, width = self.base_shape
        return channels * height * width

    def forward(self, features: Tensor) -> Tensor:
        """[N, in_features] -> [N, image_channels, H, W], unbounded."""
        x = F.leaky_relu(self.base_norm(features.view(-1, *self.base_shape)), 0.2)
        for stage in self.stages:
            x = stage(x)
        out: Tensor = self.to_image(x)
        return out


class _Stage(nn.Module):
    """Double the side, then refine."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)
        self.up_norm = nn.GroupNorm(NORM_GROUPS, out_channels)
        self.refine = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.refine_norm = nn.GroupNorm(NORM_GROUPS, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.up_norm(self.up(x)), 0.2)
        return F.leaky_relu(self.refine_norm(self.refine(x)), 0.2)
