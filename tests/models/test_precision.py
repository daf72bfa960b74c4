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
from models.packed_linear import Int4Linear, Int8Linear, Packed, PackedLinear, WeightInt8Linear
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
    kinds = {"fp32": PackedLinear, "bf16": PackedLinear, "int8": WeightInt8Linear, "int4": Int4Linear}
    for dtype, kind in kinds.items():
        network, few = llama(tied=True), dtype in ("int8", "int4")
        pack(network, dtype)
        assert all(type(block.qkv) is kind for block in network.blocks)
        assert type(network.head) is (Int8Linear if few else kind)
        if few:
            assert all(type(block.gate_up) is Int8Linear for block in network.prompt_blocks)
        else:
            assert network.prompt_blocks is None
        assert network.embedding.weight.dtype == precision.TORCH_DTYPES[dtype]


def test_parts_that_are_no_products_are_shared_between_phases():
    network = llama(head_norms=True)
    pack(network, "int4")
    for block, reader in zip(network.blocks, network.prompt_blocks, strict=True):
        assert reader.attention_norm is block.attention_norm
        assert reader.head_norms is block.head_norms
    distinct = {id(part): part.bytes for part in parts(network)}
    assert packed_bytes(network) == sum(distinct.values()) + network.embedding.weight.nbytes + tables(network)


def parts(network):
    """All packed parts of a network of blocks."""
    blocks = [*network.blocks, *network.prompt_blocks]
    owners = [network, *blocks, *(block.head_norms for block in blocks)]
    return [part for owner in owners for part in vars(owner).values() if isinstance(part, Packed)]


def tables(network):
    return network.rotary.cos.nbytes + network.rotary.sin.nbytes


@torch.inference_mode()
def test_another_network_with_an_embedding_and_a_head_has_one_phase():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.middle, self.head = nn.Embedding(32, 64), nn.Linear(64, 64), nn.Linear(64, 32)

        def forward(self, tokens):
            return self.head(self.middle(self.embedding(tokens.flatten()))).view(*tokens.shape, -1)

    for dtype, kind in {"bf16": PackedLinear, "int8": Int8Linear, "int4": Int4Linear}.items():
        network = Plain()
        pack(network, dtype)
        assert type(network.middle) is kind
        assert torch.isfinite(network(torch.tensor([[1, 2]]))).all()


def test_fewer_bits_take_less_memory():
    sizes = {}
    for dtype in TOLERANCE:
        network = llama(tied=True)
        pack(network, dtype)
        sizes[dtype] = packed_bytes(network)
    assert sizes["bf16"] < 0.55 * sizes["fp32"]
    assert sizes["int8"] < 1.05 * sizes["bf16"], "packed twice"
    assert sizes["int4"] < 0.9 * sizes["bf16"]


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
