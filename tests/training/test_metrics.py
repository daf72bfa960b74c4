import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from training.metrics import frechet_distance, precision_recall


class Columns(nn.Module):
    """A feature network for the referee: pictures [N, 3, 1, D] to their first channel."""

    num_features = 6

    def forward(self, pictures):
        return pictures[:, 0, 0].double() / 255


def referee(first, second):
    metric = FrechetInceptionDistance(feature=Columns(), normalize=False, antialias=False).set_dtype(torch.float64)
    for cloud, real in ((first, True), (second, False)):
        metric.update(torch.from_numpy(cloud)[:, None, None, :].expand(-1, 3, -1, -1), real=real)
    return float(metric.compute())


def bytes_cloud(count, seed):
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(6, 6))
    return np.clip(random.normal(size=(count, 6)) @ mixing * 20 + 90 + 20 * seed, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("n", "m"), [(400, 400), (50, 300), (5, 7)])
def test_frechet_distance_agrees_with_torchmetrics(n, m):
    first, second = bytes_cloud(n, 1), bytes_cloud(m, 2)
    mine = frechet_distance(first / 255, second / 255)
    assert mine == pytest.approx(referee(first, second), rel=1e-6, abs=1e-9)
    assert mine > 0.01


def test_frechet_distance_of_known_gaussians():
    random = np.random.default_rng(0)
    cloud = random.normal(size=(200, 3))
    assert frechet_distance(cloud, cloud) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(cloud, cloud + np.array([3, 0, 4])) == pytest.approx(25)
    variance = np.trace(np.cov(cloud, rowvar=False))
    mean = cloud.mean(0)
    assert frechet_distance(cloud, mean + 3 * (cloud - mean)) == pytest.approx(4 * variance)  # (3 - 1)^2 var


def test_frechet_distance_bears_features_that_never_vary():
    random = np.random.default_rng(0)
    cloud = np.concatenate([random.normal(size=(50, 2)), np.zeros((50, 3))], axis=1)
    other = np.concatenate([random.normal(size=(50, 2)), np.ones((50, 3))], axis=1)
    assert frechet_distance(cloud, other) == pytest.approx(3, abs=0.5)


def naive_share_inside(points, manifold, k):
    def distance(a, b):
        return np.sqrt(((a - b) ** 2).sum())

    radii = [sorted(distance(p, q) for q in manifold)[k] for p in manifold]
    inside = [any(distance(p, q) <= r for q, r in zip(manifold, radii, strict=True)) for p in points]
    return np.mean(inside)


def test_precision_and_recall_agree_with_the_definition():
    random = np.random.default_rng(1)
    real, generated = random.normal(size=(300, 2)), random.normal(size=(260, 2)) * 0.5 + 1
    precision, recall = precision_recall(real, generated)
    assert precision == pytest.approx(naive_share_inside(generated, real, 3))
    assert recall == pytest.approx(naive_share_inside(real, generated, 3))
    assert 0.5 < recall < precision < 1


def test_precision_and_recall_tell_a_missing_mode_from_an_invented_one():
    random = np.random.default_rng(2)
    one, two = random.normal(size=(200, 4)), random.normal(size=(200, 4)) + 50
    both = np.concatenate([one, two])
    precision, recall = precision_recall(both, one)
    assert (precision, recall) == (1.0, 0.5)
    precision, recall = precision_recall(one, both)
    assert (precision, recall) == (0.5, 1.0)


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="at least 4 points"):
        precision_recall(np.zeros((3, 2)), np.zeros((9, 2)))
