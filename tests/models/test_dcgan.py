"""The textbook generator keeps its protocol, its parameter names and its arithmetic."""

import pytest
import torch

from models.dcgan import DCGANGenerator
from models.protocols import EncodingModel, LatentModel

LABELS = torch.zeros(3, dtype=torch.int64)


def test_keeps_its_protocol():
    model = DCGANGenerator(latent_dim=5, channels=(8, 4), base_size=7, image_channels=1).eval()
    assert isinstance(model, LatentModel)
    assert not isinstance(model, EncodingModel)
    assert (model.latent_shape, model.num_classes) == ((5,), 0)
    out = model.decode(torch.randn(3, 5) * 100, LABELS)
    assert out.shape == (3, 1, 28, 28)
    assert out.abs().max() <= 1


def test_defaults_are_the_examples_network():
    model = DCGANGenerator()
    assert sum(p.numel() for p in model.parameters()) == 3_576_704  # what PyTorch's example counts
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes["main.0.weight"] == (100, 512, 4, 4)
    assert shapes["main.1.running_mean"] == (512,)
    assert shapes["main.12.weight"] == (64, 3, 4, 4)
    assert model.eval().decode(torch.randn(1, 100), LABELS[:1]).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("channels", [(), (8, 0), (-1,)])
def test_refuses_channels_that_make_no_network(channels):
    with pytest.raises(ValueError, match="channels"):
        DCGANGenerator(channels=channels)
