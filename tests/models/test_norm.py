"""The short norm: what RMSNorm gives, to the last bits of its dtype, and every row by itself."""

import pytest
import torch
from torch import nn

from models.norm import ShortRMSNorm


def pair(dtype, **more):
    norm = nn.RMSNorm(96, **more)
    if norm.weight is not None:
        nn.init.uniform_(norm.weight, 0.2, 3)
    return norm.to(dtype), ShortRMSNorm(norm, dtype)


def rows(dtype):
    """From rows that eps decides to large ones."""
    x = torch.randn(5, 96, generator=torch.Generator().manual_seed(0))
    return (x * torch.tensor([[0.0], [1e-4], [1e-2], [1.0], [300.0]])).to(dtype)


@pytest.mark.parametrize("more", [{"eps": 1e-5}, {"eps": None}, {"eps": 1e-6, "elementwise_affine": False}])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@torch.inference_mode()
def test_it_is_the_norm(dtype, tolerance, more):
    norm, short = pair(dtype, **more)
    x = rows(dtype)
    expected = norm.float()(x.float())
    found = short(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance * 1e-3)


@torch.inference_mode()
def test_a_row_does_not_depend_on_others():
    _, short = pair(torch.bfloat16, eps=1e-5)
    x = rows(torch.bfloat16)
    assert all(torch.equal(short(x[i : i + 1]), short(x)[i : i + 1]) for i in range(len(x)))


def test_bytes():
    _, short = pair(torch.bfloat16, eps=1e-5)
    assert short.bytes == 2 * 96
