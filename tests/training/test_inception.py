import numpy as np
import pytest
import torch
from torch import nn

from training import inception
from training.errors import TrainingError
from training.inception import Inception
from training.metrics import frechet_distance


class Plain(nn.Module):
    """Knows nothing of features."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().mean([2, 3])


class Flat(nn.Module):
    """Gives one number for all pictures."""

    def forward(self, x: torch.Tensor, return_features: bool) -> torch.Tensor:
        return x.float().mean()


@pytest.fixture
def network(tiny_inception):
    return Inception(tiny_inception)


def test_grey_pictures_go_in_as_three_channels_of_levels(network):
    samples = torch.rand(120, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    levels = ((samples + 1) * 127.5).round()
    features = network.features(samples)
    assert features.dtype == np.float64
    assert features.shape == (120, 4)
    assert np.allclose(features[:, 0], levels.mean((1, 2, 3)).numpy(), rtol=1e-5)  # red
    assert np.allclose(features[:, 2], levels.mean((1, 2, 3)).numpy(), rtol=1e-5)  # blue
    assert np.allclose(features[:, 3], levels[:, 0, 0, 0].numpy())


def test_colours_stay(network):
    samples = torch.stack([torch.full((2, 8, 8), -1.0), torch.zeros(2, 8, 8), torch.ones(2, 8, 8)], 1)
    assert network.features(samples)[:, :3].tolist() == [[0, 128, 255]] * 2


def test_the_distance_is_that_of_the_features(network):
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.rand(60, 1, 8, 8, generator=generator) * scale - 1 for scale in (2, 1))
    expected = frechet_distance(network.features(first), network.features(second))
    assert network.distance(first, second) == pytest.approx(expected)
    assert expected > 100
    assert network.distance(first, first) == pytest.approx(0, abs=1e-3)


def test_what_is_no_torchscript_is_named(tmp_path):
    with pytest.raises(TrainingError, match="no such file"):
        Inception(tmp_path / "nowhere.pt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "state.pt")
    with pytest.raises(TrainingError, match=r"state\.pt: not TorchScript .*not a state dict"):
        Inception(tmp_path / "state.pt")
    (tmp_path / "noise.pt").write_bytes(b"noise")
    with pytest.raises(TrainingError, match=r"noise\.pt: not TorchScript"):
        Inception(tmp_path / "noise.pt")


def test_a_huge_file_is_refused(tiny_inception, monkeypatch):
    monkeypatch.setattr(inception, "MAX_BYTES", 10)
    with pytest.raises(TrainingError, match="larger than"):
        Inception(tiny_inception)


def test_a_network_of_another_kind_is_named(script):
    with pytest.raises(TrainingError, match="--inception: the network fails on pictures"):
        Inception(script(Plain(), "plain.pt")).features(torch.zeros(2, 1, 8, 8))
    with pytest.raises(TrainingError, match="gives no features"):
        Inception(script(Flat(), "flat.pt")).features(torch.zeros(2, 1, 8, 8))
