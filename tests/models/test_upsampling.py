"""The stack that both picture models share."""

import pytest
import torch

from models.upsampling import UpsamplingStack


@pytest.mark.parametrize(("channels", "side"), [([8], 3), ([16, 8], 6), ([16, 8, 8], 12)])
def test_each_stage_doubles_the_side(channels, side):
    stack = UpsamplingStack(channels, 3, 2)
    assert stack.in_features == channels[0] * 9
    assert stack(torch.randn(5, stack.in_features)).shape == (5, 2, side, side)


@pytest.mark.parametrize("channels", [[], [12], [8, 0], [-8]])
def test_channels_must_fit_the_groups(channels):
    with pytest.raises(ValueError, match="multiples of 8"):
        UpsamplingStack(channels, 3, 1)


def test_a_row_does_not_depend_on_its_batch_mates():
    """GroupNorm, not BatchNorm: what one user asks for must never shine through in another's picture."""
    torch.manual_seed(0)
    stack = UpsamplingStack([16, 8], 4, 1).eval()
    x = torch.randn(8, stack.in_features)
    loud = x.clone()
    loud[1:] *= 1000
    with torch.inference_mode():
        torch.testing.assert_close(stack(x)[0], stack(loud)[0], rtol=0, atol=0)
