"""Latents have the distribution that the service draws from."""

import pytest
import torch

from models.gan import ConvGenerator
from models.style_gan import StyleGenerator
from training.latents import draw_latents, mixed

STYLED = StyleGenerator(latent_dim=16, num_classes=0, style_dim=4, channels=(8, 8, 8), base_size=2)


def test_latents_are_standard_normal():
    z = draw_latents(ConvGenerator(latent_dim=16, channels=(8,)), 4000, torch.Generator().manual_seed(1))
    assert z.shape == (4000, 16)
    assert z.mean().item() == pytest.approx(0, abs=0.02)
    assert z.std().item() == pytest.approx(1, abs=0.02)


def test_a_styled_latent_is_one_direction_of_unit_length_in_every_row():
    z = draw_latents(STYLED, 50, torch.Generator().manual_seed(1))
    assert z.shape == (50, 3, 16)
    torch.testing.assert_close(z.square().mean(2), torch.ones(50, 3))
    assert (z == z[:, :1]).all()


def test_mixing_takes_fine_rows_from_a_neighbour():
    torch.manual_seed(0)
    z = draw_latents(STYLED, 2000)
    out = mixed(z, 0.5)
    assert (out[:, 0] == z[:, 0]).all()
    foreign = (out != z).any(2)
    assert foreign[:, 2].float().mean().item() == pytest.approx(0.5, abs=0.04)
    assert foreign[:, 1].float().mean().item() == pytest.approx(0.25, abs=0.04)
    assert (out[foreign] == z.roll(1, 0)[foreign]).all()
