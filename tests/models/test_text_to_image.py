"""Guidance is the sum that it says it is, and the cached network is the uncached one."""

import pytest
import torch

from app.worker.exactness import find_exact
from models.gpt import GPT
from models.precision import is_packable, pack
from models.protocols import ConditionedModel, PrefixModel
from models.text_to_image import TextToImage

CODES, VOCAB, PROMPT, LENGTH, SLOTS = 12, 30, 4, 13, 5
SIZES = {"num_codes": CODES, "vocab_size": VOCAB, "prompt_tokens": PROMPT, "max_length": LENGTH}


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def make(**changes):
    torch.manual_seed(0)
    network = TextToImage(**SIZES | {"width": 32, "layers": 2, "heads": 4, "guidance": 2.0} | changes)
    for parameter in network.parameters():  # as sharp as a trained one, so that a wrong key shows
        parameter.data.mul_(6 if parameter.ndim == 2 else 1)
    return network.eval()


@pytest.fixture(scope="module")
def network():
    return make()


@pytest.fixture(scope="module")
def captions():
    return torch.randint(CODES, VOCAB, (SLOTS, PROMPT), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def codes():
    return torch.randint(CODES, (SLOTS, LENGTH - PROMPT), generator=torch.Generator().manual_seed(2))


def guided(network, captions, codes, scale):
    """What the uncached network says of each code behind these captions and behind none: [N, codes, K]."""
    told, untold = (
        network(torch.cat([words, codes[:, :-1]], 1))[:, PROMPT - 1 :]
        for words in (captions, torch.full_like(captions, network.padding))
    )
    return untold + scale * (told - untold)


def drawn(network, captions, codes, state=None, slots=None):
    """The same with a cache: a piece for the caption, then a step a code."""
    slots = list(range(len(captions))) if slots is None else slots
    state = network.init_state(len(captions)) if state is None else state
    count = len(captions)
    found = [network.prefill(captions, [0] * count, [PROMPT] * count, slots, state)]
    for place in range(codes.shape[1] - 1):
        positions = torch.full((count,), PROMPT + place)
        found.append(network.step(codes[:, place], positions, PROMPT + place + 1, state))
    return torch.stack(found, 1)


def test_it_is_a_conditioned_model(network):
    assert isinstance(network, ConditionedModel)
    assert isinstance(network, PrefixModel)
    assert (network.condition_length, network.padding) == (1, CODES)
    assert is_packable(network)


def test_the_published_size_is_that_of_the_design():
    parameters = sum(p.numel() for p in TextToImage(vocab_size=3394).parameters())
    assert 5e6 < parameters < 6e6


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.5])
def test_steps_are_what_the_uncached_network_says_with_guidance(network, captions, codes, scale):
    state = network.init_state(SLOTS)
    network.condition(torch.full((SLOTS, 1), scale), [1] * SLOTS, list(range(SLOTS)), state)
    found = drawn(network, captions, codes, state)
    torch.testing.assert_close(found[..., :CODES], guided(network, captions, codes, scale), rtol=1e-3, atol=1e-3)
    assert found[..., :CODES].std() > 0.5, "a flat output would hide everything"


def test_words_are_never_predicted(network, captions, codes):
    assert torch.all(drawn(network, captions, codes)[..., CODES:] == -torch.inf)


def test_every_slot_has_its_own_scale_and_the_network_s_own_where_it_is_told_none(network, captions, codes):
    state = network.init_state(SLOTS)
    network.condition(torch.tensor([[5.0], [0.0]]), [1, 0], [3, 4], state)
    network.condition(torch.zeros(1, 1), [1], [1], state)
    found = drawn(network, captions, codes, state)
    scales = torch.tensor([2.0, 0.0, 2.0, 5.0, 2.0])[:, None, None]
    torch.testing.assert_close(found[..., :CODES], guided(network, captions, codes, scales), rtol=1e-3, atol=1e-3)
    network.condition(torch.tensor([[7.0]]), [0], [3], state)
    assert state.scales.tolist() == [2.0, 0.0, 2.0, 2.0, 2.0]


def test_the_caption_counts_and_without_guidance_it_does_not(network, captions, codes):
    other = captions.clone()
    other[:, 0] = CODES + (other[:, 0] + 1) % (VOCAB - CODES)
    assert not torch.allclose(guided(network, captions, codes, 1.0), guided(network, other, codes, 1.0), atol=1e-2)
    found = []
    for words in (captions, other):
        state = network.init_state(SLOTS)
        network.condition(torch.zeros(SLOTS, 1), [1] * SLOTS, list(range(SLOTS)), state)
        found.append(drawn(network, words, codes, state))
    assert torch.equal(*found)


def test_a_prompt_may_come_in_pieces_and_hold_codes(network, captions, codes):
    """A caption in two pieces, and a picture that has been begun."""
    whole, parts = network.init_state(1), network.init_state(1)
    prompt = torch.cat([captions[:1], codes[:1, :3]], 1)
    wanted = network.prefill(prompt, [0], [PROMPT + 3], [0], whole)
    for start, end in [(0, 3), (3, 6), (6, 7)]:
        found = network.prefill(prompt[:, start:end], [start], [end - start], [0], parts)
    torch.testing.assert_close(found[:, :CODES], wanted[:, :CODES], rtol=1e-3, atol=1e-3)
    uncached = guided(network, captions[:1], codes[:1], 2.0)[:, 3]
    torch.testing.assert_close(wanted[:, :CODES], uncached, rtol=1e-3, atol=1e-3)


def test_a_slot_can_take_over_another_ones_beginning(network, captions, codes):
    state = network.init_state(SLOTS)
    network.prefill(captions[:1], [0], [PROMPT], [3], state)
    wanted = network.prefill(codes[:1, :1], [PROMPT], [1], [3], state)
    network.copy_slot(3, 1, PROMPT, state)
    assert torch.equal(network.prefill(codes[:1, :1], [PROMPT], [1], [1], state), wanted)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_row_has_its_bits_in_any_company_that_a_gpt_s_has(precision):
    sizes = {"vocab_size": 600, "max_length": 80, "width": 64, "layers": 2, "heads": 4}
    networks = [GPT(**sizes), TextToImage(**sizes, num_codes=512)]
    for network in networks:
        pack(network.eval().requires_grad_(False), precision)
    plain, own = (find_exact(network, torch.device("cpu"), 8) for network in networks)
    assert (own.slots, own.spans) == (8, plain.spans)
    assert set(own.buckets) >= set(plain.buckets)
    assert own.packs_from <= plain.packs_from


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_codes": VOCAB}, "leaves no words behind"),
        ({"prompt_tokens": LENGTH}, "leaves no codes behind"),
        ({"num_codes": 0}, "num_codes 0"),
        ({"prompt_tokens": 0}, "prompt_tokens 0"),
        ({"width": 30}, "not a multiple"),
    ],
)
def test_sizes_have_to_fit_each_other(changes, said):
    with pytest.raises(ValueError, match=said):
        make(**changes)


def test_under_guidance_only_plausible_codes_are_drawn(captions):
    """Behind the caption; at a scale of 1 or less all codes are, as likelihoods are taken there."""
    bounded, free = make(plausible=0.3), make()
    count = len(captions)
    for scale in (0.0, 1.0, 2.0):
        found = []
        for network in (bounded, free):
            state = network.init_state(count)
            network.condition(torch.full((count, 1), scale), [1] * count, range(count), state)
            found.append(network.prefill(captions, [0] * count, [PROMPT] * count, range(count), state)[:, :CODES])
        limited, whole = found
        if scale <= 1:
            assert torch.equal(limited, whole)
            continue
        likely = free(captions)[:, -1, :CODES].float().softmax(1)
        kept = limited.isfinite()
        assert torch.equal(kept, likely >= 0.3 * likely.amax(1, keepdim=True))
        assert kept.any(1).all()
        assert not kept.all()
        assert torch.equal(limited[kept], whole[kept])


@pytest.mark.parametrize("plausible", [-0.1, 1.1])
def test_plausible_is_a_share(plausible):
    with pytest.raises(ValueError, match="plausible must be from 0 to 1"):
        make(plausible=plausible)
