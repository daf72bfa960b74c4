"""GPT-2 with its cache is GPT-2 without it."""

import pytest
import torch

from models.gpt2 import GPT2
from models.protocols import PrefixModel

VOCAB, LENGTH = 37, 24
SMALL = {"vocab_size": VOCAB, "max_length": LENGTH, "width": 32, "layers": 2, "heads": 4, "feed_width": 48}


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = GPT2(**SMALL)
    for parameter in network.parameters():
        parameter.normal_(std=0.4)
    return network.eval()


@pytest.fixture
def text():
    return torch.randint(VOCAB, (LENGTH,), generator=torch.Generator().manual_seed(1))


def test_pieces_and_steps_equal_the_uncached_forward(network, text):
    assert isinstance(network, PrefixModel)
    wanted, state = network(text[None])[0], network.init_state(2)
    got = [network.prefill(text[None, :5], [0], [5], [1], state)[0]]
    got.append(network.prefill(text[None, 5:9], [5], [4], [1], state)[0])
    got += [
        network.step(torch.tensor([0, int(text[place])]), torch.tensor([0, place]), place + 1, state)[1]
        for place in range(9, LENGTH)
    ]
    torch.testing.assert_close(torch.stack(got), wanted[[4, *range(8, LENGTH)]], rtol=1e-4, atol=1e-4)
    assert wanted.std() > 0.5


def test_positions_count(network, text):
    same = torch.full((1, LENGTH), 3)
    assert not torch.allclose(network(same)[0, 1], network(same)[0, 2], atol=1e-2)
    assert "head.weight" not in network.state_dict()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 33}, "width 33 is not a multiple of heads"),
        ({"heads": 0}, "heads 0"),
        ({"feed_width": -1}, "feed_width -1"),
        ({"max_length": 0}, "max_length 0"),
        ({"max_length": 1 << 21}, "max_length 2097152"),
        ({"norm_eps": "small"}, "norm_eps small"),
    ],
)
def test_a_wrong_argument_is_named(changes, said):
    with pytest.raises(ValueError, match=said):
        GPT2(**{**SMALL, **changes})
