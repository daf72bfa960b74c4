"""Llama with its cache is Llama without it, in every variant of the family."""

import math

import pytest
import torch

from models.llama import Llama, scale_frequencies
from models.protocols import PrefixModel

VOCAB, LENGTH, SLOTS = 37, 24, 4
SMALL = {
    "vocab_size": VOCAB,
    "max_length": LENGTH,
    "width": 32,
    "layers": 2,
    "heads": 4,
    "key_heads": 2,
    "head_dim": 8,
    "feed_width": 48,
}
LLAMA3 = {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_length": 16}
VARIANTS = {
    "plain": {},
    "tied": {"tied": True},
    "biased": {"qkv_bias": True},
    "normed": {"head_norms": True, "head_dim": 6},
    "one key head": {"key_heads": 1},
    "own key heads": {"key_heads": 4},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama3": {"rope_scaling": LLAMA3},
}


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def build(**changes):
    torch.manual_seed(0)
    network = Llama(**{**SMALL, **changes})
    for parameter in network.parameters():  # as sharp as a trained one, so that a wrong key shows
        parameter.normal_(std=0.3) if parameter.ndim == 2 else parameter.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def network(request):
    return build(**request.param)


@pytest.fixture
def texts():
    return torch.randint(VOCAB, (SLOTS, LENGTH), generator=torch.Generator().manual_seed(1))


def test_it_is_a_prefix_model(network):
    assert isinstance(network, PrefixModel)
    assert (network.vocab_size, network.max_length) == (VOCAB, LENGTH)


@pytest.mark.parametrize("edges", [(1,), (9,), (4, 8, 11), (LENGTH,)])
def test_pieces_and_steps_equal_the_uncached_forward(network, texts, edges):
    text, start, got = texts[0], 0, []
    wanted = network(text[None])[0]
    state = network.init_state(SLOTS)
    for edge in edges:
        got.append(network.prefill(text[None, start:edge], [start], [edge - start], [1], state)[0])
        start = edge
    got += [
        network.step(torch.tensor([5, int(text[place])]), torch.tensor([0, place]), LENGTH, state)[1]
        for place in range(start, LENGTH)
    ]
    places = [edge - 1 for edge in edges] + list(range(start, LENGTH))
    torch.testing.assert_close(torch.stack(got), wanted[places], rtol=1e-4, atol=1e-4)
    assert wanted.std() > 0.5, "a flat output would hide everything"


def test_a_copied_slot_goes_on_like_its_source(network, texts):
    state = network.init_state(SLOTS)
    network.prefill(texts[:1, :9], [0], [9], [0], state)
    network.prefill(texts[1:2], [0], [LENGTH], [2], state)
    network.copy_slot(0, 2, 8, state)
    got = network.prefill(texts[:1, 8:12], [8], [4], [2], state)
    torch.testing.assert_close(got[0], network(texts[:1, :12])[0, -1], rtol=1e-4, atol=1e-4)


def test_padding_and_batch_mates_change_nothing(network, texts):
    """Pieces that start anew and pieces that go on, of several lengths, read at once."""
    state = network.init_state(SLOTS)
    network.prefill(texts[2:3, :6], [0], [6], [3], state)
    padded = torch.full((3, 11), VOCAB - 1)
    padded[0, :4], padded[1, :3], padded[2, :11] = texts[0, :4], texts[2, 6:9], texts[1, :11]
    got = network.prefill(padded, [0, 6, 0], [4, 3, 11], [2, 3, 0], state)
    for logits, (text, length) in zip(got, [(0, 4), (2, 9), (1, 11)], strict=True):
        torch.testing.assert_close(logits, network(texts[text : text + 1, :length])[0, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_short_piece_has_the_bits_that_it_has_among_others(network, texts, length):
    """Products of a few rows are other kernels; alone or not, the same ones are used."""
    alone, together = network.init_state(SLOTS), network.init_state(SLOTS)
    got = network.prefill(texts[:1, :length], [0], [length], [1], alone)
    padded = torch.zeros(3, 9, dtype=torch.int64)
    padded[0], padded[1, :length], padded[2] = texts[1, :9], texts[0, :length], texts[2, :9]
    wanted = network.prefill(padded, [0] * 3, [9, length, 9], [0, 1, 2], together)[1:2]
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    assert got.shape == (1, VOCAB)
    assert torch.equal(alone.keys[0][0], torch.zeros_like(alone.keys[0][0])), "padding writes nowhere"


def test_every_variant_is_another_function(texts):
    plain = {"plain", "tied", "own key heads", "one key head"}
    found = {name: build(**change)(texts[:1])[0, -1] for name, change in VARIANTS.items()}
    for name in VARIANTS.keys() - plain:
        assert not torch.allclose(found[name], found["plain"], atol=1e-2), name


def test_bf16_is_fp32_with_fewer_bits(network, texts):
    wanted = network(texts)
    low = network.bfloat16()
    got = low(texts)
    assert got.dtype == low.init_state(1).keys[0].dtype == torch.bfloat16
    close = torch.nn.functional.cosine_similarity(got.float(), wanted, dim=-1)
    assert close.median() > 0.999
    state = low.init_state(1)
    torch.testing.assert_close(low.prefill(texts[:1], [0], [LENGTH], [0], state), got[:1, -1], rtol=0.1, atol=0.1)


def test_a_head_may_be_put_on_a_tied_network(texts):
    network = build(tied=True)
    wanted = network(texts)
    assert not any(name.startswith("head.") for name in network.state_dict())
    network.head = torch.nn.Linear(32, VOCAB, bias=False)
    network.head.weight.data.copy_(2 * network.embedding.weight)
    torch.testing.assert_close(network(texts), 2 * wanted)


def test_stretched_frequencies_are_those_of_the_papers():
    plain = torch.tensor([1.0, 2 * math.pi / 10, 2 * math.pi / 16, 2 * math.pi / 100])
    torch.testing.assert_close(scale_frequencies(plain, {"type": "linear", "factor": 4.0}), plain / 4)
    short, between, edge, long = scale_frequencies(plain, {**LLAMA3, "original_max_length": 16}).tolist()
    assert (edge, long) == pytest.approx((float(plain[2] / 8), float(plain[3] / 8)))
    ramp = (1.6 - 1) / 3
    assert between == pytest.approx(float(plain[1] * (ramp + (1 - ramp) / 8)))
    ramp = (16 / (2 * math.pi) - 1) / 3
    assert short == pytest.approx(ramp + (1 - ramp) / 8)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vocab_size": 0}, "vocab_size 0"),
        ({"layers": -1}, "layers -1"),
        ({"width": 8.5}, "width 8.5"),
        ({"feed_width": True}, "feed_width True"),
        ({"key_heads": 3}, "4 heads are not a multiple of 3"),
        ({"head_dim": 7}, "head_dim 7"),
        ({"head_dim": 0}, "head_dim 0"),
        ({"max_length": 1 << 21}, "max_length 2097152"),
        ({"max_length": 1 << 20, "head_dim": 1 << 10}, "max_length 1048576 times head_dim 1024"),
        ({"rope_base": 0}, "rope_base 0"),
        ({"rope_base": "x"}, "rope_base x"),
        ({"norm_eps": -1.0}, "norm_eps -1.0"),
        ({"norm_eps": None}, "norm_eps None"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_scaling .*yarn"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling .*positive"),
        ({"rope_scaling": {"type": ["linear"], "factor": 2}}, "rope_scaling"),
        ({"rope_scaling": "linear"}, "rope_scaling"),
        ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "high_freq_factor 1.0"),
    ],
)
def test_a_wrong_argument_is_named(changes, said):
    with pytest.raises(ValueError, match=said):
        Llama(**{**SMALL, **changes})
