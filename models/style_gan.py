"""A style-based generator: mapping network, weight modulation and noise (StyleGAN2, Karras et al. 2020, 1912.04958).

The losses live in `training`; this file knows only the network.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CENTRE_DRAWS = 4096  # latents a class whose styles are averaged
TINY = 1e-8


class StyleGenerator(nn.Module):
    """Latents become styles, which scale the channels that each convolution reads; a `StyledModel`.

    A latent is a direction and a length. The mapping network reads the direction; the length says how far the style
    lies from the mean style of its class: 1 for a latent as it is drawn, less for one that is truncated (section B of
    arXiv 1812.04948). Rows of a latent are the styles of the resolutions, coarse to fine; they are equal but where two
    pictures are mixed.
    """

    centre: Tensor

    def __init__(
        self,
        *,
        latent_dim: int = 64,
        num_classes: int = 10,
        embedding_dim: int = 32,
        style_dim: int = 128,
        channels: Sequence[int] = (128, 64, 32),
        base_size: int = 7,
        image_channels: int = 1,
    ) -> None:
        """Build the generator; pictures have side base_size * 2 ** (len(channels) - 1).

        Args:
            latent_dim: length of a latent.
            num_classes: number of labels; 0 for an unconditional generator.
            embedding_dim: length of a label's embedding.
            style_dim: length of a style.
            channels: feature maps at each resolution.
            base_size: side of the first feature map.
            image_channels: 1, 3 or 4.
        """
        super().__init__()
        self.styles = len(channels)
        self.latent_shape: tuple[int, ...] = (self.styles, latent_dim)
        self.num_classes = num_classes
        self.embedding = nn.Embedding(num_classes, embedding_dim) if num_classes else None
        first = latent_dim + (embedding_dim if num_classes else 0)
        self.mapping = nn.Sequential(*_mapping_layer(first, style_dim), *_mapping_layer(style_dim, style_dim))
        self.register_buffer("centre", torch.zeros(max(1, num_classes), style_dim))
        self.base = nn.Parameter(torch.randn(1, channels[0], base_size, base_size))
        self.stages = nn.ModuleList([_Stage(channels[0], channels[0], style_dim, base_size, doubles=False)])
        for i, (before, after) in enumerate(itertools.pairwise(channels), 1):
            self.stages.append(_Stage(before, after, style_dim, base_size * 2**i, doubles=True))
        self.to_image = nn.Conv2d(channels[-1], image_channels, 3, padding=1)

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        """[N, styles, latent_dim], [N] -> [N, C, H, W] in [-1, 1]."""
        styles = self.style(latents, labels)
        x = self.base.expand(len(latents), -1, -1, -1)
        for i, stage in enumerate(self.stages):
            x = stage(x, styles[:, i])
        return torch.tanh(self.to_image(x))

    forward = decode

    def style(self, latents: Tensor, labels: Tensor) -> Tensor:
        """[N, K, latent_dim], [N] -> [N, K, style_dim]: styles, as close to the mean as latents are short."""
        length = latents.float().square().mean(2, keepdim=True).sqrt()
        directions = (latents.float() / length.clamp_min(TINY)).to(latents.dtype)
        mapped = self._mapped(directions, labels)
        centre = self.centre[labels if self.num_classes else torch.zeros_like(labels)][:, None]
        return torch.lerp(centre.expand_as(mapped), mapped.to(centre.dtype), length.to(centre.dtype))

    def _mapped(self, directions: Tensor, labels: Tensor) -> Tensor:
        count, rows, _ = directions.shape
        if self.embedding is not None:
            embedded = self.embedding(labels)[:, None].expand(-1, rows, -1)
            directions = torch.cat([directions, embedded], dim=2)
        mapped: Tensor = self.mapping(directions.flatten(0, 1))
        return mapped.view(count, rows, -1)

    @torch.no_grad()
    def settle(self) -> None:
        """Bring up to date what follows from the weights: the mean styles, and the energy of each kernel.

        To be called after training, or before looking at a network in training, in evaluation mode.
        """
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(CENTRE_DRAWS, 1, self.latent_shape[1], generator=generator).to(self.centre.device)
        directions = drawn / drawn.square().mean(2, keepdim=True).sqrt()
        for label in range(len(self.centre)):
            labels = torch.full((CENTRE_DRAWS,), label, device=self.centre.device)
            self.centre[label] = self._mapped(directions, labels).mean((0, 1))
        for module in self.modules():
            if isinstance(module, _ModulatedConv):
                module.energy.copy_(module.measured_energy())


def _mapping_layer(before: int, after: int) -> tuple[nn.Module, nn.Module]:
    """A linear layer that keeps the variance through its activation: the latent is to be seen from the first step."""
    linear = nn.Linear(before, after)
    nn.init.kaiming_normal_(linear.weight, a=0.2)
    nn.init.zeros_(linear.bias)
    return linear, nn.LeakyReLU(0.2)


class _Stage(nn.Module):
    """Two modulated convolutions, the first of which may double the side."""

    def __init__(self, in_channels: int, out_channels: int, style_dim: int, size: int, *, doubles: bool) -> None:
        super().__init__()
        self.first = _ModulatedConv(in_channels, out_channels, style_dim, size, doubles=doubles)
        self.second = _ModulatedConv(out_channels, out_channels, style_dim, size, doubles=False)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x, style), style)
        return out


class _ModulatedConv(nn.Module):
    """A convolution whose input channels are scaled by the style, its output brought back to unit variance.

    Scaling inputs and outputs instead of weights (the paper's section 2.2 gives both) keeps one kernel for the batch.
    Noise is drawn anew at every pass in training; in evaluation it is the buffer's, so that a latent has one picture.
    """

    energy: Tensor
    noise: Tensor

    def __init__(self, in_channels: int, out_channels: int, style_dim: int, size: int, *, doubles: bool) -> None:
        super().__init__()
        self.scale = nn.Linear(style_dim, in_channels)
        nn.init.normal_(self.scale.weight, std=style_dim**-0.5)  # styles of unit variance give scales of unit variance
        nn.init.ones_(self.scale.bias)
        self.conv: nn.Conv2d | nn.ConvTranspose2d
        if doubles:  # a 4 x 4 kernel over every second pixel: see `models.upsampling`
            self.conv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
        else:
            self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros(1))
        self.register_buffer("noise", torch.randn(1, 1, size, size))
        self.register_buffer("energy", self.measured_energy().detach())

    def measured_energy(self) -> Tensor:
        """Sum of squares of the kernel from each input to each output channel, [in, out]; of four phases, the mean."""
        transposed = isinstance(self.conv, nn.ConvTranspose2d)
        squares = self.conv.weight.float().square().sum((2, 3))
        return squares / 4 if transposed else squares.t()

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """[N, in, H, W], [N, style_dim] -> [N, out, H or 2 H, W or 2 W]."""
        scale = self.scale(style)
        energy = self.measured_energy() if self.training else self.energy
        shrink = torch.rsqrt(scale.square() @ energy.to(scale.dtype) + TINY)
        x = self.conv(x * scale[:, :, None, None]) * shrink[:, :, None, None]
        noise = torch.randn_like(x[:, :1]) if self.training else self.noise
        x = x + noise.to(x.dtype) * self.noise_strength.to(x.dtype) + self.bias.to(x.dtype)[:, None, None]
        return F.leaky_relu(x, 0.2) * 2**0.5
