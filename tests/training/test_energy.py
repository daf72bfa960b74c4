"""The energy distance: what it must be by its definition, and that descending it brings clouds together."""

import pytest
import torch

from training.energy import energy_distance


def test_it_is_the_definition_without_pairs_of_a_point_with_itself():
    first, second = torch.randn(5, 3), torch.randn(7, 3) + 1
    across = sum((a - b).norm() for a in first for b in second) / 35
    within = [
        sum((cloud[i] - cloud[j]).norm() for i in range(n) for j in range(n)) / (n * (n - 1))
        for cloud, n in ((first, 5), (second, 7))
    ]
    assert energy_distance(first, second).item() == pytest.approx((2 * across - sum(within)).item(), rel=1e-4)


def test_it_is_without_bias():
    torch.manual_seed(0)
    found = torch.stack([energy_distance(torch.randn(8, 2), torch.randn(8, 2)) for _ in range(2000)])
    assert abs(found.mean()) < 4 * found.std() / 2000**0.5


def test_descending_it_brings_mean_and_spread_to_those_of_the_data():
    torch.manual_seed(0)
    noise, shift, scale = torch.randn(256, 2), torch.zeros(2, requires_grad=True), torch.ones(2, requires_grad=True)
    data = torch.randn(256, 2) * torch.tensor([0.3, 2.0]) + torch.tensor([1.0, -1.0])
    optimizer = torch.optim.Adam([shift, scale], 0.05)
    for _ in range(150):
        loss = energy_distance(noise * scale + shift, data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.allclose(shift, torch.tensor([1.0, -1.0]), atol=0.3)
    assert torch.allclose(scale.abs(), torch.tensor([0.3, 2.0]), atol=0.3)


def test_equal_points_have_a_gradient_that_is_finite():
    cloud = torch.ones(4, 2, requires_grad=True)
    energy_distance(cloud, torch.ones(4, 2)).backward()
    assert torch.isfinite(cloud.grad).all()


def test_a_single_point_is_refused():
    with pytest.raises(ValueError, match="at least two points"):
        energy_distance(torch.zeros(1, 2), torch.zeros(3, 2))
