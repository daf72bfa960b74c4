"""A step follows the gradient of the right energy by the right length, and a chain of them ends where it should."""

import math

import pytest
import torch
from torch import nn

from models.critic import MAX_SCALE, Critic, CriticFile, langevin_step


class Straight(nn.Module):
    """Pictures that are their latents."""

    latent_shape, num_classes = (3,), 2

    def decode(self, latents, labels, /):
        return latents[:, :, None, None]


class Slope(nn.Module):
    """Likes large numbers, of label 1 twice as much."""

    def forward(self, samples, labels):
        return samples.sum((1, 2, 3)) * (1.0 + labels)


def test_a_step_is_the_paper_s():
    critic = Critic(Slope(), scale=3.0, step_size=0.02)
    z, noise = torch.randn(4, 3), torch.randn(4, 3)
    labels = torch.tensor([0, 1, 0, 1])
    gradient = z - 3.0 * (1.0 + labels[:, None])
    expected = z - 0.01 * gradient + math.sqrt(0.02) * noise
    torch.testing.assert_close(langevin_step(Straight(), critic, z, labels, noise), expected)
    assert not z.requires_grad


def test_a_chain_draws_from_what_the_critic_says():
    """Of a normal prior and a slope the posterior is normal, its mean the slope."""
    critic, generator = Critic(Slope(), scale=0.5, step_size=0.1), torch.Generator().manual_seed(0)
    z, labels = torch.randn(2000, 3, generator=generator), torch.arange(2000) % 2
    for _ in range(100):
        z = langevin_step(Straight(), critic, z, labels, torch.randn(z.shape, generator=generator))
    for label, mean in ((0, 0.5), (1, 1.0)):
        own = z[labels == label]
        assert own.mean().item() == pytest.approx(mean, abs=0.06)
        assert own.var().item() == pytest.approx(1.0, abs=0.1)


def file(**fields):
    given = {"architecture": "conv", "config": {}, "sha256": "0", "size": 1, "scale": 1.0, "step_size": 0.1}
    return CriticFile(**{**given, **fields})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("architecture", 1),
        ("config", []),
        ("sha256", None),
        ("size", "1"),
        ("card", []),
        ("scale", 0),
        ("scale", -1.0),
        ("scale", float("nan")),
        ("scale", float("inf")),
        ("scale", 2 * MAX_SCALE),
        ("scale", True),
        ("scale", "1"),
        ("step_size", 0.0),
        ("step_size", 1.5),
        ("step_size", None),
    ],
)
def test_what_is_wrong_is_named(name, value):
    assert file().faults == []
    assert file(**{name: value}).faults == [name]
