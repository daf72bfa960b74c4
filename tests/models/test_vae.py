"""Encoder and decoder keep their protocol and their promises about ranges."""

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from models.protocols import EncodingModel
from models.vae import ConvVAE

SMALL = {"latent_dim": 6, "channels": (16, 8), "base_size": 4}


def with_flow(num_classes=3, spread=0.3):
    """A model whose prior does something: a fresh flow is a standard normal."""
    torch.manual_seed(0)
    model = ConvVAE(**SMALL, num_classes=num_classes, flow_layers=3, flow_width=8)
    for coupling in model.prior.couplings:
        torch.nn.init.normal_(coupling.out.weight, std=spread)
    return model.requires_grad_(False)


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


@pytest.mark.parametrize("num_classes", [0, 3])
def test_with_a_flow_decode_takes_what_encode_gives(num_classes):
    model, labels = with_flow(num_classes), torch.tensor([0, 1, 2])
    assert isinstance(model, EncodingModel)
    pictures = torch.rand(3, 1, 8, 8) * 2 - 1
    latents = model.encode(pictures, labels)
    mean, _ = model.posterior(pictures, labels)
    assert not torch.allclose(latents, mean, atol=0.1)
    expected = torch.tanh(model.logits(mean, labels) / 2)
    torch.testing.assert_close(model.decode(latents, labels), expected, atol=1e-4, rtol=1e-4)


def test_a_row_depends_on_itself_alone():
    model, latents, labels = with_flow(), torch.randn(6, 6), torch.arange(6) % 3
    torch.testing.assert_close(model.decode(latents, labels)[4:], model.decode(latents[4:], labels[4:]))


def divergence(model, count):
    """The mean of so many draws, at one posterior."""
    mean, log_variance = torch.full((1, 6), 0.4), torch.full((1, 6), -1.5)
    noise, labels = torch.randn(count, 6), torch.ones(count, dtype=torch.int64)
    found = model.divergence(mean.expand(count, 6), log_variance.expand(count, 6), noise, labels)
    return found, Independent(Normal(mean[0], (log_variance[0] / 2).exp()), 1)


def test_divergence_from_a_standard_normal_is_exact():
    found, posterior = divergence(ConvVAE(**SMALL), 2)
    expected = kl_divergence(posterior, Independent(Normal(torch.zeros(6), torch.ones(6)), 1))
    torch.testing.assert_close(found, expected.expand(2))


def test_divergence_from_a_fresh_flow_is_that_from_a_standard_normal_on_average():
    torch.manual_seed(0)
    found, posterior = divergence(ConvVAE(**SMALL, flow_layers=2), 20_000)
    expected = kl_divergence(posterior, Independent(Normal(torch.zeros(6), torch.ones(6)), 1))
    assert found.mean().item() == pytest.approx(expected.item(), rel=0.01)


def test_divergence_from_a_flow_is_that_of_the_densities():
    model = with_flow()
    found, posterior = divergence(model, 20_000)
    codes = posterior.sample((20_000,))
    latents, log_det = model.prior.inverse(codes, torch.ones(20_000, dtype=torch.int64))
    prior = Normal(0.0, 1.0).log_prob(latents).sum(1) + log_det
    assert found.mean().item() == pytest.approx((posterior.log_prob(codes) - prior).mean().item(), rel=0.03)


def finished(sharpness, black_level):
    """The means of pictures as they are and as they are finished, from the same weights."""
    torch.manual_seed(0)
    plain, model = ConvVAE(**SMALL).eval(), ConvVAE(**SMALL, sharpness=sharpness, black_level=black_level).eval()
    model.load_state_dict(plain.state_dict())
    codes, labels = 3 * torch.randn(4, 6), torch.arange(4)
    with torch.no_grad():
        return [(m.decode(codes, labels) + 1) / 2 for m in (plain, model)]


def test_sharpness_adds_what_a_pixel_has_over_its_neighbours():
    plain, sharp = finished(0.5, 0.0)
    around = torch.nn.functional.pad(plain, [1] * 4).unfold(2, 3, 1).unfold(3, 3, 1).mean((4, 5))
    torch.testing.assert_close(sharp, (plain + 0.5 * (plain - around)).clamp(0, 1), atol=0.002, rtol=0)


def test_what_is_almost_black_becomes_black_and_nothing_else_changes():
    plain, clean = finished(0.0, 0.5)
    dark = plain < 0.5
    assert 0 < dark.sum() < dark.numel()
    assert (clean[dark] * 255).round().max() == 0
    torch.testing.assert_close(clean[~dark], plain[~dark], atol=1e-5, rtol=0)


def test_training_leaves_the_finish_out():
    model, codes, labels = ConvVAE(**SMALL, sharpness=0.5, black_level=0.2), torch.randn(2, 6), torch.arange(2)
    raw = model.stack(model.project(torch.cat([codes, model.embedding(labels)], 1)))
    assert torch.equal(model.train().logits(codes, labels), raw)
    assert not torch.allclose(model.eval().logits(codes, labels), raw)


@pytest.mark.parametrize("wrong", [{"sharpness": -0.1}, {"black_level": 1.0}, {"black_level": -0.1}])
def test_a_finish_out_of_range_is_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ConvVAE(**SMALL, **wrong)


def test_a_flow_over_an_odd_number_of_codes_is_refused():
    with pytest.raises(ValueError, match="even length, got 5"):
        ConvVAE(latent_dim=5, channels=(8,), flow_layers=2)


@pytest.mark.parametrize("make", [lambda: ConvVAE(**SMALL, num_classes=3), with_flow])
@pytest.mark.parametrize("part", ["decode", "encode"])
def test_labels_matter(part, make):
    model = make()
    x = torch.randn(1, 6) if part == "decode" else torch.randn(1, 1, 8, 8)
    outs = [getattr(model, part)(x, torch.tensor([label])) for label in (0, 1)]
    assert not torch.allclose(*outs)
