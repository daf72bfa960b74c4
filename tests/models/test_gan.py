"""The generator keeps its protocol; the discriminator tells samples and labels apart."""

import pytest
import torch

from models.gan import ConvDiscriminator, ConvGenerator
from models.protocols import EncodingModel, LatentModel

SMALL = {"latent_dim": 6, "channels": (16, 8), "base_size": 4}


@pytest.mark.parametrize("channels", [1, 3])
def test_generator_keeps_its_protocol(channels):
    model = ConvGenerator(**SMALL, num_classes=3, image_channels=channels)
    assert isinstance(model, LatentModel)
    assert not isinstance(model, EncodingModel)
    assert (model.latent_shape, model.num_classes) == ((6,), 3)
    out = model.decode(torch.randn(5, 6) * 100, torch.tensor([0, 1, 2, 0, 1]))
    assert out.shape == (5, channels, 8, 8)
    assert out.abs().max() <= 1


def test_label_decides_the_picture():
    model = ConvGenerator(**SMALL, num_classes=3).eval()
    z = torch.randn(1, 6).expand(3, 6)
    out = model.decode(z, torch.tensor([0, 1, 1]))
    assert not torch.allclose(out[0], out[1])
    torch.testing.assert_close(out[1], out[2])


def test_unconditional_generator_ignores_labels():
    model = ConvGenerator(**SMALL, num_classes=0).eval()
    assert model.embedding is None
    z = torch.randn(2, 6)
    torch.testing.assert_close(model(z, torch.zeros(2, dtype=torch.int64)), model(z, torch.tensor([7, 9])))


def test_default_generator_paints_28_by_28():
    assert ConvGenerator().decode(torch.randn(1, 64), torch.tensor([0])).shape == (1, 1, 28, 28)


@pytest.mark.parametrize("classes", [0, 3])
def test_discriminator_scores_each_sample(classes):
    model = ConvDiscriminator(num_classes=classes, channels=(8, 16), image_size=8)
    samples = torch.randn(4, 1, 8, 8)
    labels = torch.tensor([0, 1, 2, 0])
    scores = model(samples, labels)
    assert scores.shape == (4,)
    other = model(samples, (labels + 1) % 3)
    assert torch.allclose(scores, other) == (classes == 0)
    scores.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.from_image.parameters())
