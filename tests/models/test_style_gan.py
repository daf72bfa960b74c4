"""Directions and lengths of latents, rows of styles, demodulation, noise."""

import pytest
import torch

from models.protocols import LatentModel
from models.style_gan import StyleGenerator
from training.latents import draw_latents

CONFIG = {"latent_dim": 6, "style_dim": 12, "channels": (16, 8, 8), "base_size": 4}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = StyleGenerator(**CONFIG, num_classes=3).eval()
    for module in model.modules():
        if hasattr(module, "noise_strength"):
            torch.nn.init.constant_(module.noise_strength, 0.1)
    model.settle()
    return model


@pytest.fixture
def latents(model):
    return draw_latents(model, 5, torch.Generator().manual_seed(1))


LABELS = torch.tensor([0, 1, 2, 0, 1])


@pytest.mark.parametrize("classes", [0, 3])
def test_keeps_the_protocol(classes):
    model = StyleGenerator(**CONFIG, num_classes=classes)
    assert isinstance(model, LatentModel)
    assert (model.latent_shape, model.styles, model.num_classes) == ((3, 6), 3, classes)
    out = model.decode(torch.randn(5, 3, 6) * 100, LABELS)
    assert out.shape == (5, 1, 16, 16)
    assert out.abs().max() <= 1


def test_a_latent_has_one_picture_whatever_its_neighbours(model, latents):
    whole = model(latents, LABELS)
    torch.testing.assert_close(model(latents[3:4], LABELS[3:4]), whole[3:4])
    assert torch.equal(model(latents, LABELS), whole)


def test_noise_is_drawn_anew_in_training_alone(model, latents):
    model.train()
    assert not torch.equal(model(latents, LABELS), model(latents, LABELS))


def test_the_length_of_a_latent_is_the_truncation(model, latents):
    full = model.style(latents, LABELS)
    half = model.style(latents * 0.5, LABELS)
    centre = model.centre[LABELS][:, None].expand_as(full)
    torch.testing.assert_close(half, (full + centre) / 2)
    torch.testing.assert_close(model.style(latents * 0, LABELS), centre)


def test_the_centre_is_the_mean_style_of_each_class(model):
    z = draw_latents(model, 5000, torch.Generator().manual_seed(2))[:, :1]
    for label in range(3):
        mean = model.style(z, torch.full((5000,), label)).mean((0, 1))
        torch.testing.assert_close(mean, model.centre[label], atol=0.02, rtol=0.05)


def test_coarse_rows_and_fine_rows_decide_different_things(model, latents):
    other = latents.roll(1, 0)
    coarse = torch.cat([other[:, :1], latents[:, 1:]], dim=1)
    fine = torch.cat([latents[:, :2], other[:, 2:]], dim=1)
    pictures = [model(z, LABELS) for z in (latents, coarse, fine)]
    assert not torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])
    assert not torch.equal(pictures[1], pictures[2])


def test_demodulation_keeps_the_variance_whatever_the_style(model):
    torch.manual_seed(0)
    conv = model.stages[0].first
    torch.nn.init.zeros_(conv.noise_strength)
    x = torch.randn(200, 16, 4, 4)
    for factor in (0.1, 1.0, 10.0):
        style = torch.randn(200, 12) * factor
        out = conv.conv(x * conv.scale(style)[:, :, None, None])
        shrink = torch.rsqrt(conv.scale(style).square() @ conv.energy)
        inner = (out * shrink[:, :, None, None])[:, :, 1:-1, 1:-1]
        assert inner.std().item() == pytest.approx(1, abs=0.1)


def test_a_doubling_convolution_keeps_the_variance_too(model):
    torch.manual_seed(0)
    conv = model.stages[1].first
    x, scale = torch.randn(200, 16, 4, 4), torch.ones(200, 16)
    inner = (conv.conv(x) * torch.rsqrt(scale @ conv.energy)[:, :, None, None])[:, :, 2:-2, 2:-2]
    assert inner.std().item() == pytest.approx(1, abs=0.1)


def test_the_energy_in_training_is_that_of_the_weights(model, latents):
    settled = model(latents, LABELS)
    with torch.no_grad():
        for stage in model.stages:
            stage.first.conv.weight.mul_(3)  # demodulation undoes it
    assert not torch.allclose(model(latents, LABELS), settled, atol=1e-4)
    model.settle()
    torch.testing.assert_close(model(latents, LABELS), settled, atol=1e-4, rtol=1e-4)
