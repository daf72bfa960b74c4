"""The cached network is the uncached one, whatever else lies in the cache."""

import pytest
import torch

from models.gpt import GPT
from models.protocols import PrefixModel

VOCAB, LENGTH, SLOTS = 37, 24, 5


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = GPT(vocab_size=VOCAB, max_length=LENGTH, width=32, layers=3, heads=4)
    for parameter in network.parameters():  # as sharp as a trained one, so that a wrong key shows
        parameter.data.mul_(6 if parameter.ndim == 2 else 1)
    return network.eval()


@pytest.fixture(scope="module")
def texts():
    return torch.randint(VOCAB, (SLOTS, LENGTH), generator=torch.Generator().manual_seed(1))


def prefill(network, state, slot, tokens, width=None):
    """Read one prompt into a slot, padded with a token that is not zero."""
    padded = torch.full((1, width or len(tokens)), 7)
    padded[0, : len(tokens)] = tokens
    return network.prefill(padded, [0], [len(tokens)], [slot], state)[0]


def step(network, state, tokens, positions, span=LENGTH):
    return network.step(torch.tensor(tokens), torch.tensor(positions), span, state)


def test_it_is_a_sequence_model(network):
    assert isinstance(network, PrefixModel)
    assert (network.vocab_size, network.max_length) == (VOCAB, LENGTH)
    assert "embedding.weight" in network.state_dict()
    assert not any(name.startswith(("rotary", "head")) for name in network.state_dict()), "tied, and no tables"


@pytest.mark.parametrize("prompt", [1, 2, 9, LENGTH])
def test_prefill_and_steps_equal_the_uncached_forward(network, texts, prompt):
    text = texts[0]
    wanted = network(text[None])[0]
    state = network.init_state(1)
    got = [prefill(network, state, 0, text[:prompt])]
    got += [step(network, state, [int(text[i])], [i])[0] for i in range(prompt, LENGTH)]
    torch.testing.assert_close(torch.stack(got), wanted[prompt - 1 :], rtol=1e-4, atol=1e-4)
    assert wanted.std() > 0.5, "a flat output would hide everything"


def test_every_token_counts(network, texts):
    """The distribution after the last position depends on the first token: the cache is really read."""
    other = texts[0].clone()
    other[0] = (other[0] + 1) % VOCAB
    assert not torch.allclose(network(texts[:1])[0, -1], network(other[None])[0, -1], atol=1e-2)
    assert not torch.allclose(network(texts[:1, :8])[0, -1], network(texts[:1, :8].roll(1, 1))[0, -1], atol=1e-2)


def test_a_position_sees_nothing_of_what_follows(network, texts):
    other = texts[:1].clone()
    other[0, 12:] = (other[0, 12:] + 5) % VOCAB
    torch.testing.assert_close(network(texts[:1])[:, :12], network(other)[:, :12])


def test_slots_are_independent(network, texts):
    """Sequences at different places in different slots, advanced together, are what each is alone."""
    lengths = [3, 11, 1, 7, 5]
    state = network.init_state(SLOTS)
    for slot in (4, 0, 3, 1, 2):
        prefill(network, state, slot, texts[slot, : lengths[slot]])
    for i in range(6):
        positions = [length + i for length in lengths]
        got = step(network, state, [int(texts[s, p]) for s, p in enumerate(positions)], positions)
        for slot, place in enumerate(positions):
            alone = network(texts[slot : slot + 1, : place + 1])[0, -1]
            torch.testing.assert_close(got[slot], alone, rtol=1e-4, atol=1e-4)


def test_a_slot_is_overwritten_by_its_next_prompt(network, texts):
    state = network.init_state(2)
    prefill(network, state, 1, texts[0])
    prefill(network, state, 1, texts[1, :4])
    got = step(network, state, [0, int(texts[1, 4])], [0, 4])[1]
    torch.testing.assert_close(got, network(texts[1:2, :5])[0, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [6, 16, LENGTH])
def test_padding_is_harmless(network, texts, width):
    plain, padded = network.init_state(1), network.init_state(1)
    wanted, got = prefill(network, plain, 0, texts[0, :5]), prefill(network, padded, 0, texts[0, :5], width)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    for i in range(5, LENGTH):
        a, b = (step(network, state, [int(texts[0, i])], [i])[0] for state in (plain, padded))
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)


def test_a_shorter_span_reads_the_same(network, texts):
    long, short = network.init_state(1), network.init_state(1)
    for state in (long, short):
        prefill(network, state, 0, texts[0, :5])
    torch.testing.assert_close(
        step(network, short, [3], [5], span=6), step(network, long, [3], [5]), rtol=1e-4, atol=1e-4
    )


def test_idle_rows_touch_nothing_but_their_own_slot(network, texts):
    state = network.init_state(3)
    prefill(network, state, 0, texts[0, :5])
    prefill(network, state, 2, texts[2, :5])
    before = [(k.clone(), v.clone()) for k, v in zip(state.keys, state.values, strict=True)]
    step(network, state, [int(texts[0, 5]), 0], [5, 0])
    for (k, v), keys, values in zip(before, state.keys, state.values, strict=True):
        assert torch.equal(k[2], keys[2])
        assert torch.equal(v[2], values[2])
        assert torch.equal(k[0, :, :5], keys[0, :, :5])
        assert not torch.equal(k[0, :, 5], keys[0, :, 5])


def test_prompts_may_be_read_together(network, texts):
    apart, together = network.init_state(3), network.init_state(3)
    prompts = torch.zeros(2, 9, dtype=torch.int64)
    prompts[0, :4], prompts[1] = texts[0, :4], texts[1, :9]
    got = network.prefill(prompts, [0, 0], [4, 9], [2, 0], together)
    wanted = torch.stack([prefill(network, apart, 2, texts[0, :4]), prefill(network, apart, 0, texts[1, :9])])
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    after = step(network, together, [1, 0, 2], [9, 0, 4])
    torch.testing.assert_close(after, step(network, apart, [1, 0, 2], [9, 0, 4]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("width", "heads"), [(33, 4), (36, 4), (8, 8)])
def test_a_width_that_can_t_be_turned_in_pairs_is_refused(width, heads):
    with pytest.raises(ValueError, match=f"width {width} is not a multiple"):
        GPT(vocab_size=VOCAB, width=width, heads=heads, layers=1)


def test_a_fresh_network_knows_nothing(texts):
    """Its loss is that of the uniform distribution, as it should be before training."""
    torch.manual_seed(0)
    fresh = GPT(vocab_size=VOCAB, max_length=LENGTH, width=32, layers=3, heads=4)
    loss = torch.nn.functional.cross_entropy(fresh(texts[:, :-1]).flatten(0, 1), texts[:, 1:].flatten())
    assert abs(float(loss) - torch.log(torch.tensor(float(VOCAB)))) < 0.1
