"""The recurrent network is torch's, however a text comes to it: whole, in pieces, token by token."""

import pytest
import torch

from models.calibration import SAMPLE
from models.gru import GRU
from models.precision import is_packable, pack
from models.protocols import PrefixModel, SequenceModel

VOCAB, LENGTH, SLOTS = 37, 24, 5


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def build(**changes):
    torch.manual_seed(0)
    network = GRU(**{"vocab_size": VOCAB, "max_length": 64, "width": 24, "hidden": 32, "layers": 2} | changes)
    network.embedding.weight.data.mul_(20)  # as sharp as a trained one, so that a wrong gate shows
    return network.eval()


@pytest.fixture
def network():
    return build()


@pytest.fixture(scope="module")
def texts():
    return torch.randint(VOCAB, (SLOTS, LENGTH), generator=torch.Generator().manual_seed(1))


def referee(network):
    """`torch.nn.GRU` with the same weights."""
    own = torch.nn.GRU(24, 32, num_layers=len(network.cells), batch_first=True)
    for layer, cell in enumerate(network.cells):
        for name, linear in (("ih", cell.inputs), ("hh", cell.recurrent)):
            getattr(own, f"weight_{name}_l{layer}").data.copy_(linear.weight)
            getattr(own, f"bias_{name}_l{layer}").data.copy_(linear.bias)
    return own


def prefill(network, state, slot, tokens, start=0, width=None):
    """Read one piece into a slot, padded with a token that is not zero."""
    padded = torch.full((1, width or len(tokens)), 7)
    padded[0, : len(tokens)] = tokens
    return network.prefill(padded, [start], [len(tokens)], [slot], state)[0]


def step(network, state, tokens):
    return network.step(torch.tensor(tokens), torch.zeros(len(tokens), dtype=torch.int64), 1, state)


def test_it_is_a_sequence_model_without_prefixes(network):
    assert isinstance(network, SequenceModel)
    assert not isinstance(network, PrefixModel)
    assert is_packable(network)
    assert [tuple(held.shape) for held in network.init_state(3)] == [(3, 32), (3, 32)]


def test_the_whole_forward_is_that_of_torch(network, texts):
    found, _ = referee(network)(network.embedding(texts))
    wanted = network.out(found) @ network.embedding.weight.T
    torch.testing.assert_close(network(texts), wanted, rtol=1e-5, atol=1e-5)
    assert wanted.std() > 0.5, "a flat output would hide everything"


@pytest.mark.parametrize("cuts", [[LENGTH], [1, LENGTH], [9, LENGTH], [3, 4, 11, LENGTH], [5]])
def test_pieces_and_steps_equal_the_whole_forward(network, texts, cuts):
    wanted, state = network(texts[:1])[0], network.init_state(2)
    start = 0
    for end in cuts:
        logits = prefill(network, state, 1, texts[0, start:end], start)
        torch.testing.assert_close(logits, wanted[end - 1], rtol=1e-4, atol=1e-4)
        start = end
    for place in range(start, LENGTH):
        logits = step(network, state, [0, int(texts[0, place])])[1]
        torch.testing.assert_close(logits, wanted[place], rtol=1e-4, atol=1e-4)


def test_every_token_counts_and_none_that_follows(network, texts):
    other = texts[:1].clone()
    other[0, 0] = (other[0, 0] + 1) % VOCAB
    assert not torch.allclose(network(texts[:1, :6])[0, -1], network(other[:, :6])[0, -1], atol=1e-3)
    other = texts[:1].clone()
    other[0, 12:] = (other[0, 12:] + 5) % VOCAB
    torch.testing.assert_close(network(texts[:1])[:, :12], network(other)[:, :12])


def test_a_slot_begins_anew_whatever_was_there(network, texts):
    state = network.init_state(2)
    for held in state:
        held.fill_(float("nan"))
    got = prefill(network, state, 1, texts[0, :4])
    assert torch.equal(got, prefill(network, network.init_state(2), 1, texts[0, :4]))
    assert all(held[0].isnan().all() for held in state), "the other slot is left alone"


def test_prompts_of_other_lengths_may_be_read_together_bit_by_bit(network, texts):
    lengths, slots = [4, 9, 1, LENGTH, 7], [2, 0, 4, 1, 3]
    together, apart = network.init_state(SLOTS), network.init_state(SLOTS)
    got = network.prefill(texts, [0] * SLOTS, lengths, slots, together)
    for row, (length, slot) in enumerate(zip(lengths, slots, strict=True)):
        assert torch.equal(prefill(network, apart, slot, texts[row, :length], width=LENGTH), got[row])
    assert all(torch.equal(one, other) for one, other in zip(together, apart, strict=True))


def test_rows_that_are_not_advanced_keep_what_they_remember(network, texts):
    state = network.init_state(3)
    network.prefill(texts[:3], [0] * 3, [LENGTH] * 3, [0, 1, 2], state)
    before = [held.clone() for held in state]
    step(network, state, [1, 2])
    for old, held in zip(before, state, strict=True):
        assert torch.equal(old[2], held[2])
        assert not torch.equal(old[:2], held[:2])


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("bf16", 0.1), ("int8", 0.2)])
def test_a_packed_network_says_nearly_the_same(texts, precision, bound):
    network, packed = build(), build()
    pack(packed, precision, [ord(letter) % VOCAB for letter in SAMPLE])
    state = packed.init_state(SLOTS)
    got = packed.prefill(texts, [0] * SLOTS, [LENGTH] * SLOTS, range(SLOTS), state)
    wanted = network(texts)[:, -1]
    assert (got.float() - wanted).norm() < bound * wanted.norm()
    again = packed.step(texts[:, 0], torch.zeros(SLOTS), 1, state).float()
    after = network(torch.cat([texts, texts[:, :1]], 1))[:, -1]
    assert (again - after).norm() < bound * after.norm()


def test_dropout_is_for_training_alone(texts):
    network = build(dropout=0.5)
    assert torch.equal(network(texts), build()(texts))
    network.train()
    assert not torch.equal(network(texts), network(texts))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"layers": 0}, "layers 0 is not"), ({"hidden": 1.5}, r"hidden 1\.5 is not"), ({"dropout": 2.0}, "dropout")],
)
def test_sizes_that_make_no_network_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        build(**wrong)


def test_a_fresh_network_knows_nothing(texts):
    """Its loss is that of the uniform distribution, as it should be before training."""
    torch.manual_seed(0)
    fresh = GRU(vocab_size=VOCAB, width=24, hidden=32)
    loss = torch.nn.functional.cross_entropy(fresh(texts[:, :-1]).flatten(0, 1), texts[:, 1:].flatten())
    assert abs(float(loss) - torch.log(torch.tensor(float(VOCAB)))) < 0.1
