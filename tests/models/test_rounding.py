"""Weights in few bits stay close, and those that were in few bits before stay what they were."""

import pytest
import torch

from models import rounding


def weight(rows=16, inputs=64, seed=0):
    return torch.randn(rows, inputs, generator=torch.Generator().manual_seed(seed)) * 0.02


def restored(codes, kept):
    scales, middles = (part.float().T.unsqueeze(-1) for part in kept.unbind(-1))
    return ((codes.view(*scales.shape[:2], -1) - 8) * scales + middles).flatten(1)


def test_8_bits_are_off_by_half_a_step_at_most():
    w = weight()
    codes, scales = rounding.round_to_int8(w)
    assert codes.dtype == torch.int8
    assert codes.abs().max() == 127
    assert ((codes * scales[:, None] - w).abs() <= scales[:, None] * 0.5001).all()


def test_4_bits_have_a_scale_for_each_group():
    w = weight() * torch.tensor([1.0, 50.0]).repeat_interleave(32)
    codes, kept = rounding.round_to_int4(w)
    assert codes.dtype == torch.int32
    assert (int(codes.min()), int(codes.max())) == (0, 15)
    assert kept.shape == (2, 16, 2)
    error = (restored(codes, kept) - w).view(16, 2, 32)
    relative = error.norm(dim=(0, 2)) / w.view(16, 2, 32).norm(dim=(0, 2))
    assert (relative < 0.1).all(), "the small group does not suffer from the large one"


def test_weights_that_were_in_4_bits_come_back():
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 16, (16, 2, 32), generator=generator)
    codes[..., 0], codes[..., 1] = 0, 15
    w = (codes * torch.rand(16, 2, 1, generator=generator) + torch.randn(16, 2, 1, generator=generator)).flatten(1)
    again, _ = rounding.round_to_int4(w)
    assert torch.equal(again, codes.flatten(1).int())


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_equal_weights_are_kept(value):
    w = torch.full((16, 32), value)
    torch.testing.assert_close(restored(*rounding.round_to_int4(w)), w)
    codes, scales = rounding.round_to_int8(w)
    torch.testing.assert_close(codes * scales[:, None], w)
