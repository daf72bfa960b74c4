"""Encoder and decoder keep their protocol and their promises about ranges."""

import pytest
import torch

from models.protocols import EncodingModel
from models.vae import ConvVAE

SMALL = {"latent_dim": 6, "channels": (16, 8), "base_size": 4}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [0, 3])
def test_there_and_back(classes, channels):
    model = ConvVAE(**SMALL, num_classes=classes, image_channels=channels)
    assert isinstance(model, EncodingModel)
    labels = torch.tensor([0, 1, 2])
    pictures = model.decode(torch.randn(3, 6), labels)
    assert pictures.shape == (3, channels, 8, 8)
    assert pictures.abs().max() <= 1
    latents = model.encode(pictures, labels)
    assert latents.shape == (3, *model.latent_shape)


def test_encode_is_the_posterior_mean():
    model = ConvVAE(**SMALL, num_classes=3)
    pictures, labels = torch.rand(2, 1, 8, 8), torch.tensor([0, 2])
    mean, log_variance = model.posterior(pictures, labels)
    torch.testing.assert_close(model.encode(pictures, labels), mean)
    assert mean.shape == log_variance.shape == (2, 6)


def test_decode_is_the_mean_of_the_bernoulli():
    model = ConvVAE(**SMALL, num_classes=3)
    z, labels = torch.randn(2, 6), torch.tensor([0, 2])
    expected = 2 * torch.sigmoid(model.logits(z, labels)) - 1
    torch.testing.assert_close(model.decode(z, labels), expected)


def test_variance_stays_finite_however_wild_the_sample():
    model = ConvVAE(**SMALL, num_classes=0)
    with torch.no_grad():
        model.to_posterior.weight.mul_(1e6)
    _, log_variance = model.posterior(torch.randn(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64))
    assert log_variance.min() >= -12
    assert log_variance.max() <= 8


@pytest.mark.parametrize("part", ["decode", "encode"])
def test_labels_matter(part):
    model = ConvVAE(**SMALL, num_classes=3)
    x = torch.randn(1, 6) if part == "decode" else torch.randn(1, 1, 8, 8)
    outs = [getattr(model, part)(x, torch.tensor([label])) for label in (0, 1)]
    assert not torch.allclose(*outs)
