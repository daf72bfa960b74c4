"""The rewritten convolution, shuffled, is the layer's; where it would not be, the layer is left alone."""

import pytest
import torch
from torch import nn

from app.worker import subpixel

SHAPE = (3, 6, 8, 4)
EVEN = {
    "grey": (nn.Conv2d(6, 1, 3, padding=1), 4),
    "colour": (nn.Conv2d(6, 3, 3, padding=1, bias=False), 2),
    "wide kernel": (nn.Conv2d(6, 4, 5, padding=2), 2),
    "pointwise": (nn.Conv2d(6, 1, 1), 4),
    "dcgan": (nn.ConvTranspose2d(6, 3, 4, stride=2, padding=1), 2),
    "odd kernel": (nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, bias=False), 2),
    "large kernel": (nn.ConvTranspose2d(6, 1, 8, stride=2, padding=3), 2),
    "stride of 4": (nn.ConvTranspose2d(6, 1, 4, stride=4), 4),
    "stride of 3": (nn.ConvTranspose2d(6, 1, 5, stride=3, padding=1), 3),
}
UNEVEN = {
    "many channels": nn.Conv2d(6, 5, 3, padding=1),
    "many channels upwards": nn.ConvTranspose2d(6, 5, 4, stride=2, padding=1),
    "a side lost": nn.Conv2d(6, 1, 3),
    "strided": nn.Conv2d(6, 1, 3, stride=2, padding=1),
    "dilated": nn.Conv2d(6, 1, 3, padding=1, dilation=2),
    "groups": nn.Conv2d(6, 2, 3, padding=1, groups=2),
    "oblong": nn.Conv2d(6, 1, (3, 5), padding=(1, 2)),
    "not a multiple": nn.ConvTranspose2d(6, 1, 4, stride=2),
    "stride of 1": nn.ConvTranspose2d(6, 1, 3, padding=1),
    "two strides": nn.ConvTranspose2d(6, 1, 4, stride=(2, 1), padding=1),
}


@pytest.mark.parametrize("name", EVEN)
def test_same_picture_from_blocks(name):
    layer, r = EVEN[name]
    with torch.inference_mode():
        x = torch.randn(SHAPE)
        found, blocks = subpixel.in_blocks(layer, SHAPE)
        assert blocks == r
        torch.testing.assert_close(nn.functional.pixel_shuffle(found(x), r), layer(x), atol=1e-5, rtol=1e-4)


def test_blocks_as_large_as_the_sides_allow():
    layer = nn.Conv2d(6, 1, 3, padding=1)
    assert [subpixel.in_blocks(layer, (1, 6, *sides)) is None for sides in ((8, 8), (6, 8), (7, 8))] == [0, 0, 1]
    assert subpixel.in_blocks(layer, (1, 6, 6, 8))[1] == 2


@pytest.mark.parametrize("name", UNEVEN)
def test_other_layers_are_left_alone(name):
    assert subpixel.in_blocks(UNEVEN[name], SHAPE) is None
