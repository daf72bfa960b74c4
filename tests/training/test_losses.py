"""Losses at logits where their values are known by hand; penalties of functions whose gradients are."""

import math

import pytest
import torch
from torch import nn

from training.losses import LOSSES, one_centred, zero_centred

REAL, FAKE = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 0.5])


def softplus(value):
    return math.log1p(math.exp(value))


@pytest.mark.parametrize(
    ("name", "discriminator", "generator"),
    [
        ("non-saturating", (softplus(-2) + softplus(1)) / 2 + softplus(0.5), softplus(-0.5)),
        ("hinge", (0 + 2) / 2 + 1.5, -0.5),
        ("wasserstein", 0.0, -0.5),
        ("relativistic", (softplus(-1.5) + softplus(1.5)) / 2, (softplus(1.5) + softplus(-1.5)) / 2),
    ],
)
def test_values(name, discriminator, generator):
    assert LOSSES[name].discriminator(REAL, FAKE).item() == pytest.approx(discriminator, abs=1e-6)
    assert LOSSES[name].generator(REAL, FAKE).item() == pytest.approx(generator, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_players_pull_in_opposite_directions(name):
    fake = torch.zeros(2, requires_grad=True)
    (for_discriminator,) = torch.autograd.grad(LOSSES[name].discriminator(torch.zeros(2), fake), fake)
    (for_generator,) = torch.autograd.grad(LOSSES[name].generator(torch.zeros(2), fake), fake)
    assert (for_discriminator > 0).all()
    assert (for_generator < 0).all()


def test_the_penalty_of_a_linear_discriminator_is_its_squared_weight_on_both_sides():
    layer = nn.Linear(4, 1, bias=False)
    samples = torch.randn(10, 4, requires_grad=True)
    for penalty in zero_centred(layer(samples).squeeze(1), samples, count=6):
        assert penalty.item() == pytest.approx(layer.weight.square().sum().item(), rel=1e-5)


def test_the_penalty_tells_real_from_generated_and_reaches_the_weights():
    scale = torch.tensor(3.0, requires_grad=True)
    samples = torch.tensor([[1.0], [1.0], [2.0]], requires_grad=True)  # two real, one generated
    on_real, on_fake = zero_centred((scale * samples.square()).squeeze(1), samples, count=2)
    assert on_real.item() == pytest.approx(6.0**2)  # d/dx of 3 x^2 is 6 x
    assert on_fake.item() == pytest.approx(12.0**2)
    (on_real + on_fake).backward()
    assert scale.grad.item() == pytest.approx(2 * 3 * (4 + 16))


def test_the_one_centred_penalty_is_taken_between_the_pictures():
    places = []

    def critic(samples):
        places.append(samples.detach())
        return 3 * samples.flatten(1).sum(1) / 2  # a gradient of 1.5 at each of 4 pixels: norm 3

    real, fake = torch.zeros(50, 1, 2, 2), torch.ones(50, 1, 2, 2)
    assert one_centred(critic, real, fake).item() == pytest.approx(4.0)
    (between,) = places
    assert 0 < between.min() < 0.2 < 0.8 < between.max() < 1
    assert (between == between[:, :1, :1, :1]).all()  # one share a pair
