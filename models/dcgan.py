"""DCGAN (Radford, Metz & Chintala 2016, arXiv 1511.06434): the textbook's unconditional convolutional generator.

Parameters are named as in PyTorch's own DCGAN example (`main.0.weight`, ...), so that a state dict trained with it, or
with one of the many tutorials that follow it, can be exported as it is.
"""

import itertools
from collections.abc import Iterator, Sequence

from torch import Tensor, nn


class DCGANGenerator(nn.Module):
    """Transposed convolutions with batch normalisation and ReLU, tanh at the end; a `LatentModel` without labels."""

    num_classes = 0

    def __init__(
        self,
        *,
        latent_dim: int = 100,
        channels: Sequence[int] = (512, 256, 128, 64),
        base_size: int = 4,
        image_channels: int = 3,
    ) -> None:
        """Build the generator; pictures have side base_size * 2 ** len(channels).

        Args:
            latent_dim: length of a latent, standard normal.
            channels: feature maps at each resolution, from the base upwards.
            base_size: side of the first feature map; 4 in the paper, 7 for pictures of 28 x 28.
            image_channels: 1, 3 or 4.

        Raises:
            ValueError: `channels` is empty or holds something that is not positive.
        """
        super().__init__()
        if not channels or any(c <= 0 for c in channels):
            raise ValueError(f"channels must be positive, got {list(channels)}")
        self.latent_shape: tuple[int, ...] = (latent_dim,)
        self.main = nn.Sequential(*_layers(latent_dim, channels, base_size, image_channels))

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:  # noqa: ARG002  # the protocol's signature
        """[N, latent_dim], labels ignored -> [N, C, H, W] in [-1, 1]."""
        samples: Tensor = self.main(latents[:, :, None, None])
        return samples

    forward = decode


def _layers(latent_dim: int, channels: Sequence[int], base_size: int, image_channels: int) -> Iterator[nn.Module]:
    yield nn.ConvTranspose2d(latent_dim, channels[0], base_size, bias=False)
    for before, after in itertools.pairwise((*channels, image_channels)):
        yield nn.BatchNorm2d(before)
        yield nn.ReLU(inplace=True)
        yield nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)
    yield nn.Tanh()
