import numpy as np
import pytest
import torch

from models.gan import ConvGenerator
from training import measurement, quality
from training.data import Split, to_samples
from training.errors import TrainingError
from training.measurement import Reference, check_count, closest, curve, measure

CONFIG = {"latent_dim": 4, "num_classes": 3, "embedding_dim": 4, "channels": (8, 8), "base_size": 4}
COUNT = 48


@pytest.fixture
def reference(judge, dataset):
    return Reference(judge, dataset)


@pytest.fixture
def labels():
    return quality.balanced_labels(COUNT, 3)


def deal(split: Split, labels, seed=0):
    """Pictures of a split with these labels, drawn with replacement."""
    random = np.random.default_rng(seed)
    places = [random.choice(np.flatnonzero(split.labels.numpy() == label)) for label in labels.tolist()]
    return to_samples(split.pictures[torch.tensor(places)])


def test_copies_are_found_out(reference, dataset, labels):
    found = measure(deal(dataset.train, labels), labels, reference)
    assert tuple(found.metrics) == measurement.METRICS
    assert set(found.metrics) <= set(quality.METRICS["gan"])
    assert found.metrics["copy_distance"] < 0.01 < 0.5 < found.metrics["copy_distance_test"]
    assert found.metrics["precision"] > 0.5
    generated, beside = found.closest[::2], found.closest[1::2]
    assert len(generated) == measurement.CLOSEST
    assert torch.allclose(generated, beside, atol=1e-6)
    assert len(found.distances) == len(found.distances_test) == COUNT


def test_real_pictures_score_near_the_floor_and_noise_far_from_it(reference, dataset, labels):
    real = measure(deal(dataset.test, labels), labels, reference).metrics
    torch.manual_seed(0)
    noise = quality.generate(ConvGenerator(**CONFIG).eval(), labels, seed=0)
    far = measure(noise, labels, reference).metrics
    assert real["fd_clf"] < 10 * real["fd_clf_floor"] < far["fd_clf"]
    assert abs(real["kid"]) < far["kid"] / 10
    assert far["recall"] == 0
    assert real["diversity"] == pytest.approx(real["diversity_test"], rel=0.4)


def test_class_accuracy_is_the_judges(reference, judge, dataset, labels):
    samples = deal(dataset.test, labels, seed=2)
    found = measure(samples, labels, reference)
    right = judge.opinion(samples).classes == labels.numpy()
    assert found.metrics["class_accuracy"] == right.mean()
    assert found.by_class == tuple(right[labels.numpy() == c].mean() for c in range(3))
    assert found.metrics["worst_class_accuracy"] == min(found.by_class)


def test_one_picture_a_class_has_no_diversity(reference, dataset, labels):
    first = {c: (dataset.test.labels == c).nonzero()[0, 0] for c in range(3)}
    samples = to_samples(dataset.test.pictures[torch.stack([first[c] for c in labels.tolist()])])
    found = measure(samples, labels, reference).metrics
    assert found["diversity"] < 0.01 * found["diversity_test"]
    assert found["inception_score_clf"] >= 1


@pytest.mark.parametrize(("count", "classes"), [(9, 3), (19, 10), (0, 0)])
def test_too_few_pictures_are_refused(count, classes):
    with pytest.raises(TrainingError, match=rf"{count} pictures: at least {max(10, 2 * classes)}"):
        check_count(count, classes)


def test_the_curve_asks_for_each_truncation(reference, dataset, labels):
    asked = []

    def make(truncation):
        asked.append(truncation)
        return deal(dataset.test, labels) * truncation

    points = curve(make, labels, reference, [0.5, 1.0])
    assert asked == [0.5, 1.0]
    assert [point["truncation"] for point in points] == [0.5, 1.0]
    assert all(tuple(point)[1:] == measurement.CURVE for point in points)
    whole = measure(deal(dataset.test, labels), labels, reference).metrics
    assert {name: points[1][name] for name in measurement.CURVE} == {name: whole[name] for name in measurement.CURVE}
    assert points[0]["diversity"] < points[1]["diversity"]


def test_the_closest_come_first(reference, dataset):
    samples = to_samples(dataset.train.pictures[:30])
    samples += torch.linspace(1, 0, 30)[:, None, None, None] * 0.1
    pairs = closest(samples, reference.nearest(samples), reference)
    assert torch.equal(pairs[0], samples[29])
    assert torch.equal(pairs[2], samples[28])
    assert torch.allclose(pairs[1], samples[29], atol=1e-6)


def test_distances_are_in_grey_levels(reference, dataset):
    found = reference.nearest(torch.full((1, 1, 8, 8), -1.0))
    pixels = (to_samples(dataset.train.pictures).flatten(1) + 1) / 2
    norms = pixels.norm(dim=1)
    assert float(found.distances[0]) == pytest.approx(float(norms.min()), rel=1e-4)
    assert int(found.index[0]) == int(norms.argmin())
