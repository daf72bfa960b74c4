"""Language models packed as a whole: close to what they were, small, and rows apart from each other."""

import copy

import pytest
import torch
from torch import nn

from models import precision
from models.calibration import Calibrating, smoothing
from models.gpt import GPT
from models.gpt2 import GPT2
from models.llama import Llama
from models.packed_linear import Int4Linear, Int8Linear, PackedLinear
from models.precision import PrecisionError, is_packable, pack, packed_bytes

SIZES = {"heads": 4, "key_heads": 2, "head_dim": 16, "feed_width": 160}


def llama(seed=0, **more):
    torch.manual_seed(seed)
    network = Llama(vocab_size=96, max_length=64, width=64, layers=2, **{**SIZES, **more})
    return network.half().eval().requires_grad_(False)


def read(network, prompt, rows=1, steps=3):
    """Logits [rows, 1 + steps, V] of the same text in every row, a prompt and a few tokens after it."""
    state = network.init_state(rows)
    tokens = torch.tensor([prompt] * rows)
    half = len(prompt) - steps
    out = [network.prefill(tokens[:, :half], [0] * rows, [half] * rows, range(rows), state)]
    places = range(half, len(prompt))
    out += [network.step(tokens[:, i], torch.full((rows,), i), 64, state) for i in places]
    return torch.stack(out, 1).float()


PROMPT = [5, 90, 17, 33, 2, 61, 8, 44, 70, 12, 3, 9]
TOLERANCE = {"fp32": 1e-5, "bf16": 0.02, "int8": 0.03, "int4": 0.15}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("tied", [True, False])
@torch.inference_mode()
def test_logits_stay_close(dtype, tied):
    network = llama(tied=tied, qkv_bias=True)
    expected = read(copy.deepcopy(network).float(), PROMPT)
    pack(network, dtype, PROMPT)
    found = read(network, PROMPT)
    assert not any(type(module) in (nn.Linear, Calibrating) for module in network.modules())
    assert (found - expected).norm() < TOLERANCE[dtype] * expected.norm()


@pytest.mark.parametrize("dtype", TOLERANCE)
@torch.inference_mode()
def test_rows_do_not_depend_on_their_number(dtype):
    network = llama(tied=True)
    pack(network, dtype, PROMPT)
    alone, many = read(network, PROMPT, rows=2), read(network, PROMPT, rows=9)
    for row in range(9):
        assert torch.equal(many[row], alone[0])


def test_what_each_precision_is_made_of():
    kinds = {"fp32": PackedLinear, "bf16": PackedLinear, "int8": Int8Linear, "int4": Int4Linear}
    for dtype, kind in kinds.items():
        network = llama(tied=True)
        pack(network, dtype)
        assert all(isinstance(block.qkv, kind) for block in network.blocks)
        assert isinstance(network.head, Int8Linear if dtype == "int4" else kind)
        assert network.embedding.weight.dtype == precision.TORCH_DTYPES[dtype]


def test_fewer_bits_take_less_memory():
    sizes = []
    for dtype in TOLERANCE:
        network = llama(tied=True)
        pack(network, dtype)
        sizes.append(packed_bytes(network))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] < 0.55 * sizes[0]


def test_layers_that_4_bits_do_not_fit_stay_in_bf16():
    network = llama(feed_width=40)
    pack(network, "int4")
    assert isinstance(network.blocks[0].gate_up, Int4Linear)
    assert isinstance(network.blocks[0].feed_out, PackedLinear)
    read(network, PROMPT)


@torch.inference_mode()
def test_a_sample_smooths_what_is_large():
    plain, smoothed = llama(tied=True), llama(tied=True)
    for network in (plain, smoothed):
        network.blocks[1].feed_norm.weight[3] = 300
        network.norm.weight[5] = 300
    expected = read(copy.deepcopy(plain).float(), PROMPT)
    pack(plain, "int8")
    pack(smoothed, "int8", PROMPT)
    errors = [(read(network, PROMPT) - expected).norm() for network in (plain, smoothed)]
    assert errors[1] < 0.7 * errors[0]


def test_smoothing_shares_what_is_large():
    inputs, weight = torch.tensor([[4.0, -100.0], [1.0, 1.0]]), torch.tensor([[1.0, 1.0], [-1.0, 0.5]])
    factors = smoothing(inputs, weight)
    torch.testing.assert_close(factors[1] / factors[0], torch.tensor(5.0))
    torch.testing.assert_close(factors.log().mean(), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_the_small_networks_of_the_repository():
    sizes = {"vocab_size": 96, "max_length": 64, "width": 64, "layers": 1, "heads": 2}
    for network in (GPT(**sizes), GPT2(**sizes, feed_width=256)):
        assert is_packable(network)
        pack(network.half().eval().requires_grad_(False), "int4", PROMPT)
        assert torch.isfinite(read(network, PROMPT)).all()


def test_other_networks_are_refused():
    assert not is_packable(nn.Linear(2, 2))
    with pytest.raises(PrecisionError, match="Linear has no embedding and head"):
        pack(nn.Linear(2, 2), "int4")
