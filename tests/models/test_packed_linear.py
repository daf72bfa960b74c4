"""Packed layers: close to the product that they stand for, and every row the same whatever stands beside it."""

import pytest
import torch
from torch import nn

from models.packed_linear import Int4Linear, Int8Linear, PackedLinear, WeightInt8Linear, fits_int4

ROWS = [1, 2, 3, 4, 5, 7, 8, 12, 15, 16, 17, 31, 32, 33, 64, 100]
SHAPES = [(64, 96), (48, 160), (96, 64)]


def build(kind, weight, bias):
    if kind in ("fp32", "bf16"):
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[kind]
        return PackedLinear(weight.to(dtype), None if bias is None else bias.to(dtype))
    if kind == "int4":
        return Int4Linear(weight, bias)
    if kind == "int8 weights":
        return WeightInt8Linear(weight, bias)
    smooth = torch.linspace(0.5, 2, weight.shape[1]) if kind == "int8 smoothed" else None
    return Int8Linear(weight, bias, smooth, torch.float32 if kind == "int8 head" else torch.bfloat16)


# of the product: what is left of the bits, as a share
TOLERANCE = {
    "fp32": 1e-6,
    "bf16": 5e-3,
    "int8": 1.5e-2,
    "int8 smoothed": 2.5e-2,
    "int8 head": 1.5e-2,
    "int8 weights": 1.5e-2,
    "int4": 0.12,
}


def layer(kind, outputs, inputs, with_bias):
    generator = torch.Generator().manual_seed(outputs)
    weight = torch.randn(outputs, inputs, generator=generator) * 0.05
    bias = torch.randn(outputs, generator=generator) if with_bias else None
    x = torch.randn(128, inputs, generator=generator).to(torch.float32 if kind == "fp32" else torch.bfloat16)
    return build(kind, weight, bias), weight, bias, x


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("kind", TOLERANCE)
@torch.inference_mode()
def test_products(kind, with_bias):
    for outputs, inputs in SHAPES:
        packed, weight, bias, x = layer(kind, outputs, inputs, with_bias)
        expected = nn.functional.linear(x.float(), weight, bias)
        found = packed(x)
        assert found.dtype == (torch.float32 if kind in ("fp32", "int8 head") else torch.bfloat16)
        error = (found.float() - expected).norm() / expected.norm()
        assert error < TOLERANCE[kind], (outputs, inputs)


@pytest.mark.parametrize("kind", TOLERANCE)
@torch.inference_mode()
def test_a_row_does_not_depend_on_others(kind):
    for outputs, inputs in SHAPES:
        packed, *_, x = layer(kind, outputs, inputs, with_bias=True)
        whole = packed(x)
        for rows in ROWS:
            assert torch.equal(packed(x[-rows:]), whole[-rows:]), (outputs, inputs, rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_a_lone_row_has_the_bits_that_it_has_among_others_where_sums_cancel(dtype):
    generator = torch.Generator().manual_seed(7)
    for outputs, inputs in ((64, 96), (576, 1536), (256, 2048)):
        weight, x = (torch.randn(rows, inputs, generator=generator).pow(5).to(dtype) for rows in (outputs, 16))
        packed = PackedLinear(weight, None)
        together = packed(x)
        assert all(torch.equal(packed(x[i : i + 1]), together[i : i + 1]) for i in range(16)), (outputs, inputs)


@pytest.mark.parametrize("kind", ["int8", "int8 smoothed"])
@torch.inference_mode()
def test_rows_of_zeros_and_of_all_sizes(kind):
    packed, weight, _, x = layer(kind, 64, 96, with_bias=False)
    x = x[:3] * torch.tensor([[0.0], [1e-3], [1e4]]).bfloat16()
    found, expected = packed(x).float(), x.float() @ weight.T
    assert torch.equal(found[0], torch.zeros(64))
    assert ((found - expected).norm(dim=1)[1:] < 0.02 * expected.norm(dim=1)[1:]).all()


@torch.inference_mode()
def test_smoothing_saves_what_one_large_input_would_drown():
    _, weight, _, x = layer("int8", 64, 96, with_bias=False)
    x[:, 7] *= 300
    weight[:, 7] /= 100
    smooth = torch.ones(96)
    smooth[7] = 100
    expected = x.float() @ weight.T
    plain, smoothed = (
        (Int8Linear(weight, None, factors, torch.bfloat16)(x).float() - expected).norm() for factors in (None, smooth)
    )
    assert smoothed < plain / 5


def test_bytes():
    weight, bias = torch.zeros(64, 96), torch.zeros(64)
    assert PackedLinear(weight, bias).bytes == 4 * (64 * 96 + 64)
    assert PackedLinear(weight.bfloat16(), None).bytes == 2 * 64 * 96
    assert Int8Linear(weight, None, None, torch.bfloat16).bytes == 64 * 96 + 4 * 64
    assert WeightInt8Linear(weight, None).bytes == 64 * 96 + 2 * 64
    assert Int4Linear(weight, None).bytes == 64 * 96 // 2 + 64 * 3 * 4


def test_shapes_for_4_bits():
    assert fits_int4(torch.empty(48, 96))
    assert not fits_int4(torch.empty(40, 96))
    assert not fits_int4(torch.empty(48, 100))


@pytest.mark.parametrize("kind", TOLERANCE)
@torch.inference_mode()
def test_inputs_may_lie_as_they_like(kind):
    """A recurrent network hands over whole texts, token by token, as they come from a transposition."""
    product, _, _, x = layer(kind, 64, 96, with_bias=True)
    rows, texts = product(x), x.view(8, 16, 96)
    for given in (texts, texts.transpose(0, 1).contiguous().transpose(0, 1)):
        found = product(given)
        assert found.shape == (8, 16, 64)
        torch.testing.assert_close(found.reshape(128, 64), rows, rtol=0, atol=0)
