"""Convolutions to a picture's few channels, rewritten as convolutions to many channels at a lower resolution.

A CPU computes sixteen output channels in the time of one: the layer that makes the picture, with one to four, leaves
most of its lanes idle. A block of r x r neighbouring pixels taken for r * r channels of one pixel (Shi et al. 2016, the
sub-pixel convolution, read backwards) fills them. The products are the same, only those with added zeros are new.
"""

import torch
from torch import Tensor, nn

LANES = 16  # output channels that are computed at once


def in_blocks(layer: nn.Conv2d | nn.ConvTranspose2d, shape: tuple[int, ...]) -> tuple[nn.Conv2d, int] | None:
    """A convolution and the r by which `PixelShuffle(r)` makes of its output that of the layer.

    Args:
        layer: with zero padding.
        shape: of its input, [N, C, H, W].

    Returns:
        None where the layer has many channels, or a geometry that does not come out even.
    """
    if isinstance(layer, nn.ConvTranspose2d):
        return _of_transposed(layer)
    return _of_plain(layer, *shape[2:])


def _of_plain(layer: nn.Conv2d, height: int, width: int) -> tuple[nn.Conv2d, int] | None:
    """Every r-th position of a kernel so large that it holds the layer's at r x r places."""
    kernel, padding = layer.kernel_size[0], layer.padding[0]
    if not _is_square(layer) or layer.stride != (1, 1) or kernel != 2 * int(padding) + 1:
        return None
    blocks = [r for r in (4, 2) if layer.out_channels * r * r <= LANES and height % r == 0 and width % r == 0]
    if not blocks:
        return None
    r = blocks[0]
    side = kernel + r - 1
    weight = layer.weight.new_zeros(layer.out_channels, r, r, layer.in_channels, side, side)
    for a in range(r):
        for b in range(r):
            weight[:, a, b, :, a : a + kernel, b : b + kernel] = layer.weight
    return _convolution(weight, layer.bias, stride=r, padding=int(padding)), r


def _of_transposed(layer: nn.ConvTranspose2d) -> tuple[nn.Conv2d, int] | None:
    """Each of the stride's phases is a convolution of the small input with every stride-th weight."""
    kernel, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
    even = kernel + layer.output_padding[0] == stride + 2 * padding  # the output is stride times the input
    if not _is_square(layer) or not even or stride == 1 or layer.out_channels * stride**2 > LANES:
        return None
    taps = [
        (phase, reach, phase + padding - stride * reach)  # output stride * i + phase takes input i + reach
        for phase in range(stride)
        for reach in range(-kernel, kernel + 1)
        if 0 <= phase + padding - stride * reach < kernel
    ]
    radius = max(abs(reach) for _, reach, _ in taps)
    side = 2 * radius + 1
    weight = layer.weight.new_zeros(layer.out_channels, stride, stride, layer.in_channels, side, side)
    for a, down, u in taps:
        for b, right, v in taps:
            weight[:, a, b, :, radius + down, radius + right] = layer.weight[:, :, u, v].t()
    return _convolution(weight, layer.bias, stride=1, padding=radius), stride


def _is_square(layer: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    assert not isinstance(layer.padding, str)
    sizes = (layer.kernel_size, layer.stride, layer.padding, layer.output_padding)
    return all(a == b for a, b in sizes) and layer.dilation == (1, 1) and layer.groups == 1


def _convolution(weight: Tensor, bias: Tensor | None, *, stride: int, padding: int) -> nn.Conv2d:
    """From a weight [O, r, r, C, K, K], with a channel for each place in a block."""
    out_channels, r, _, in_channels, side, _ = weight.shape
    made = nn.Conv2d(
        in_channels, out_channels * r * r, side, stride, padding, bias=bias is not None, dtype=weight.dtype
    )
    with torch.no_grad():
        made.weight.copy_(weight.flatten(0, 2))
        if bias is not None and made.bias is not None:
            made.bias.copy_(bias.repeat_interleave(r * r))
    return made
