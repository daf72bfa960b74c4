import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from training.metrics import frechet_distance, inception_score, kernel_distance, mean_distance, precision_recall

# the referee warns that it keeps all features in memory
KEEPS_FEATURES = pytest.mark.filterwarnings("ignore:Metric `.*Inception.*` will save all extracted features")


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


def kernel_referee(first, second, **options):
    metric = KernelInceptionDistance(feature=Columns(), normalize=False, **options).set_dtype(torch.float64)
    for cloud, real in ((first, True), (second, False)):
        metric.update(torch.from_numpy(cloud)[:, None, None, :].expand(-1, 3, -1, -1), real=real)
    return [float(value) for value in metric.compute()]


@KEEPS_FEATURES
def test_kernel_distance_agrees_with_torchmetrics():
    first, second = bytes_cloud(200, 1), bytes_cloud(200, 2)
    expected, _ = kernel_referee(first, second, subsets=2, subset_size=200)  # each subset is the whole
    mean, deviation = kernel_distance(first / 255, second / 255, subsets=3)
    assert mean == pytest.approx(expected, rel=1e-6)
    assert mean > 0.001
    assert deviation == pytest.approx(0, abs=1e-12)


@KEEPS_FEATURES
def test_kernel_distance_over_subsets_agrees_with_torchmetrics_up_to_the_draw():
    first, second = bytes_cloud(400, 1), bytes_cloud(300, 2)
    torch.manual_seed(0)
    expected, spread = kernel_referee(first, second, subsets=200, subset_size=50)
    mean, deviation = kernel_distance(first / 255, second / 255, subsets=200, size=50)
    assert mean == pytest.approx(expected, abs=4 * spread / 200**0.5)
    assert deviation == pytest.approx(spread, rel=0.3)


def test_kernel_distance_is_unbiased():
    random = np.random.default_rng(0)
    found = [kernel_distance(*random.normal(size=(2, 40, 4)), subsets=1)[0] for _ in range(200)]
    assert min(found) < 0 < max(found)
    assert abs(np.mean(found)) < 3 * np.std(found) / 200**0.5


def test_kernel_distance_needs_two_points():
    with pytest.raises(ValueError, match="at least 2 points"):
        kernel_distance(np.zeros((1, 2)), np.zeros((9, 2)))


@KEEPS_FEATURES
@pytest.mark.filterwarnings(r"ignore:std\(\):UserWarning")  # of its one part
def test_the_inception_score_agrees_with_torchmetrics():
    cloud = bytes_cloud(300, 1)
    metric = InceptionScore(feature=Columns(), normalize=False, splits=1).set_dtype(torch.float64)
    metric.update(torch.from_numpy(cloud)[:, None, None, :].expand(-1, 3, -1, -1))
    probabilities = torch.from_numpy(cloud / 255).softmax(1).numpy()
    mine = inception_score(probabilities, splits=1)
    assert mine == pytest.approx(float(metric.compute()[0]), rel=1e-6)
    assert mine > 1.0001


def test_the_inception_score_of_known_classes():
    sure = np.eye(5)[np.arange(100) % 5]
    assert inception_score(sure) == pytest.approx(5)
    assert inception_score(np.full((100, 5), 0.2)) == pytest.approx(1)
    assert inception_score(np.eye(5)[np.zeros(100, int)]) == pytest.approx(1)
    in_order = np.eye(5)[np.arange(100) // 20]
    assert inception_score(in_order, splits=5) == pytest.approx(1)  # each part sees one class
    with pytest.raises(ValueError, match="at least 10"):
        inception_score(sure[:9])


def test_the_mean_distance_is_that_of_all_pairs():
    cloud = np.random.default_rng(0).normal(size=(300, 3))
    pairs = torch.pdist(torch.from_numpy(cloud))
    assert mean_distance(cloud) == pytest.approx(float(pairs.mean()), rel=1e-6)
    assert mean_distance(np.array([[0.0, 0.0], [3.0, 4.0]])) == pytest.approx(5)
    with pytest.raises(ValueError, match="at least 2"):
        mean_distance(np.zeros((1, 3)))


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
