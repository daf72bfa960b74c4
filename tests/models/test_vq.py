"""Codes are whole numbers, and what is drawn depends on them alone."""

import pytest
import torch

from models.protocols import EncodingModel
from models.vq import VQVAE

SMALL = {"num_codes": 10, "code_dim": 4, "channels": (16, 8, 8), "hidden": 8, "blocks": 1, "base_size": 4}


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture
def network():
    torch.manual_seed(0)
    return VQVAE(**SMALL).eval()


@pytest.fixture
def samples():
    return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def labels(count):
    return torch.zeros(count, dtype=torch.long)


def random_codes(count):
    return torch.randint(10, (count, 4, 4), generator=torch.Generator().manual_seed(2)).float()


def test_it_is_an_encoding_model_of_codes(network):
    assert isinstance(network, EncodingModel)
    assert (network.latent_shape, network.num_classes, network.num_codes) == ((4, 4), 0, 10)
    assert "codebook" in network.state_dict()


def test_the_published_size_is_that_of_the_design():
    parameters = sum(p.numel() for p in VQVAE().parameters())
    assert 0.7e6 < parameters < 0.85e6


def test_pictures_become_whole_numbers_and_come_back_as_pictures(network, samples):
    codes = network.encode(samples, labels(5))
    assert codes.shape == (5, 4, 4)
    assert torch.equal(codes, codes.round())
    assert 0 <= codes.min() <= codes.max() < 10
    drawn = network.decode(codes, labels(5))
    assert drawn.shape == samples.shape
    assert -1 <= drawn.min() <= drawn.max() <= 1


def test_a_code_is_the_nearest_entry_of_the_codebook(network, samples):
    features = network.features(samples)
    codes = network.nearest(features)
    for picture, row, column in [(0, 0, 0), (3, 1, 2), (4, 3, 3)]:
        distances = (network.codebook - features[picture, :, row, column]).norm(dim=1)
        assert codes[picture, row, column] == distances.argmin()
    assert len(codes.unique()) > 1, "a single code would hide everything"


def test_numbers_are_rounded_and_clamped(network):
    codes = random_codes(2)
    wanted = network.decode(codes, labels(2))
    assert torch.equal(network.decode(codes + 0.4, labels(2)), wanted)
    assert torch.equal(network.decode(codes - 0.4, labels(2)), wanted)
    beyond = network.decode(torch.full((1, 4, 4), 1e9), labels(1))
    assert torch.equal(beyond, network.decode(torch.full((1, 4, 4), 9.0), labels(1)))
    assert torch.equal(
        network.decode(torch.full((1, 4, 4), -5.0), labels(1)), network.decode(torch.zeros(1, 4, 4), labels(1))
    )


def test_every_code_draws_something_else(network):
    drawn = network.decode(torch.arange(10.0).view(10, 1, 1).expand(10, 4, 4), labels(10)).flatten(1)
    assert torch.pdist(drawn).min() > 1e-3


def test_rows_are_independent(network, samples):
    codes = network.encode(samples, labels(5))
    alone = torch.cat([network.decode(code[None], labels(1)) for code in codes])
    torch.testing.assert_close(network.decode(codes, labels(5)), alone)
    apart = torch.cat([network.encode(sample[None], labels(1)) for sample in samples])
    assert torch.equal(codes, apart)


def test_latents_that_can_not_tell_codes_apart_are_refused():
    many = VQVAE(**SMALL | {"num_codes": 1024}).eval()
    with pytest.raises(ValueError, match="bfloat16 can't tell 1024 codes apart"):
        many.decode(torch.zeros(1, 4, 4, dtype=torch.bfloat16), labels(1))
    codes = torch.full((1, 4, 4), 1023.0)
    assert torch.equal(many.decode(codes.half(), labels(1)), many.decode(codes, labels(1)))
    few = VQVAE(**SMALL | {"num_codes": 256}).eval()
    codes = torch.full((1, 4, 4), 255.0)
    assert torch.equal(few.decode(codes.bfloat16(), labels(1)), few.decode(codes, labels(1)))


@pytest.mark.parametrize("name", ["num_codes", "code_dim", "hidden", "blocks", "base_size"])
def test_sizes_have_to_be_positive(name):
    with pytest.raises(ValueError, match=f"{name} 0"):
        VQVAE(**SMALL | {name: 0})
