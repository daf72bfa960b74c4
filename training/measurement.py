"""What a set of pictures scores against the data, by a judge; knows nothing of how the pictures were made.

Weights in this process and a service at the other end of a connection are measured by the same code.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training import metrics
from training.data import Dataset, to_samples
from training.errors import TrainingError
from training.judge import Judge, Opinion

CLOSEST = 20  # pairs that are shown
COPY_CHECK = 1000  # generated pictures that are compared with every training picture
MIN_COUNT = 10  # pictures; fewer can't be told from a Gaussian, nor cut into the parts of the Inception score

METRICS = (
    "fd_clf",
    "fd_clf_floor",
    "kid",
    "kid_std",
    "inception_score_clf",
    "inception_score_clf_test",
    "precision",
    "recall",
    "diversity",
    "diversity_test",
    "class_accuracy",
    "worst_class_accuracy",
    "copy_distance",
    "copy_distance_test",
)
CURVE = ("fd_clf", "precision", "class_accuracy", "recall", "diversity")  # what a truncation curve shows


@dataclass(frozen=True)
class Neighbours:
    """The nearest training picture of each of N pictures.

    Attributes:
        distances: Euclidean, in grey levels 0..1 over all pixels, [N].
        index: of the training picture, [N] int64.
    """

    distances: Tensor
    index: Tensor

    @property
    def median(self) -> float:
        """The median distance."""
        return float(self.distances.median())


@dataclass(frozen=True)
class Reference:
    """The real side of every measurement, looked at once: the data through the judge's eyes."""

    judge: Judge
    dataset: Dataset
    seed: int = 0

    @cached_property
    def test(self) -> Opinion:
        """What the judge makes of the test split."""
        return self.judge.opinion(to_samples(self.dataset.test.pictures))

    def train(self, count: int) -> Opinion:
        """What it makes of so many training pictures, drawn at random."""
        chosen = np.random.default_rng(self.seed).permutation(len(self.dataset.train))[:count]
        return self.judge.opinion(to_samples(self.dataset.train.pictures[torch.from_numpy(chosen)]))

    @cached_property
    def diversity(self) -> float:
        """Of the test split: see `diversity`."""
        return diversity(self.test.features, self.dataset.test.labels.cpu().numpy())

    @cached_property
    def neighbours(self) -> Neighbours:
        """The nearest training pictures of the first test pictures."""
        return self.nearest(to_samples(self.dataset.test.pictures[:COPY_CHECK]))

    def nearest(self, samples: Tensor) -> Neighbours:
        """The nearest training pictures of these [N, C, H, W]."""
        found = [torch.cdist(chunk, self._train).min(1) for chunk in torch.split(_pixels(samples), 100)]
        return Neighbours(torch.cat([part.values for part in found]), torch.cat([part.indices for part in found]))

    @cached_property
    def _train(self) -> Tensor:
        return _pixels(to_samples(self.dataset.train.pictures))


@dataclass(frozen=True)
class Measurement:
    """What a set of pictures scores.

    Attributes:
        metrics: the names of `METRICS`, perhaps more.
        by_class: class accuracy of each class, in the order of the labels.
        distances: to the nearest training picture, of the first `COPY_CHECK` pictures.
        distances_test: the same of test pictures.
        closest: the pictures nearest to a training picture, each followed by that, [2 * CLOSEST or fewer, C, H, W].
    """

    metrics: Mapping[str, float]
    by_class: tuple[float, ...]
    distances: Tensor
    distances_test: Tensor
    closest: Tensor


def diversity(features: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Mean distance of two pictures of one class on the judge's features [N, D]; the mean over classes."""
    return float(np.mean([metrics.mean_distance(features[labels == label]) for label in np.unique(labels)]))


def measure(samples: Tensor, labels: Tensor, reference: Reference) -> Measurement:
    """Measure pictures [N, C, H, W] in [-1, 1] that were asked for with these labels [N].

    The metrics:
        fd_clf: Frechet distance on the judge's features, against the test split.
        fd_clf_floor: the same for as many training pictures, which the judge has seen: hardly anything can score less.
        kid, kid_std: kernel distance (Binkowski et al. 2018) on the same features, mean and deviation over subsets.
        inception_score_clf: Inception score (Salimans et al. 2016) of the judge's class probabilities;
            inception_score_clf_test: the same of the test split.
        precision, recall: of Kynkaanniemi et al. 2019 on the same features, k = 3.
        diversity: mean distance of two pictures of one class on the same features; diversity_test: of the test split.
        class_accuracy: share of pictures in which the judge sees the class that was asked for.
        worst_class_accuracy: the same for the worst class.
        copy_distance, copy_distance_test: median pixel distance to the nearest training picture, of generated and of
            test pictures; a model that copies has a much smaller one than the test split.

    Raises:
        TrainingError: too few pictures.
    """
    check_count(len(samples), reference.judge.num_classes)
    opinion = reference.judge.opinion(samples)
    neighbours = reference.nearest(samples[:COPY_CHECK])
    kid, kid_std = metrics.kernel_distance(opinion.features, reference.test.features)
    train = reference.train(len(samples))
    right = opinion.classes == labels.numpy()
    asked = [labels.numpy() == c for c in range(reference.judge.num_classes)]
    by_class = tuple(float(right[of_class].mean()) if of_class.any() else 0.0 for of_class in asked)
    found = {
        **look(opinion, labels, reference),
        "fd_clf_floor": metrics.frechet_distance(train.features, reference.test.features),
        "kid": kid,
        "kid_std": kid_std,
        "inception_score_clf": metrics.inception_score(opinion.probabilities),
        "inception_score_clf_test": metrics.inception_score(reference.test.probabilities),
        "diversity_test": reference.diversity,
        "worst_class_accuracy": min(by_class),
        "copy_distance": neighbours.median,
        "copy_distance_test": reference.neighbours.median,
    }
    return Measurement(
        {name: found[name] for name in METRICS},
        by_class,
        neighbours.distances,
        reference.neighbours.distances,
        closest(samples, neighbours, reference),
    )


def check_count(count: int, classes: int) -> None:
    """Refuse too few pictures before they are made.

    Raises:
        TrainingError: fewer than can be measured, or than two of each class.
    """
    if count < max(MIN_COUNT, 2 * classes):
        raise TrainingError(f"{count} pictures: at least {max(MIN_COUNT, 2 * classes)} are needed, two of each class")


def look(opinion: Opinion, labels: Tensor, reference: Reference) -> dict[str, float]:
    """The metrics of `CURVE`: those that truncation trades against each other."""
    precision, recall = metrics.precision_recall(reference.test.features, opinion.features)
    return {
        "fd_clf": metrics.frechet_distance(opinion.features, reference.test.features),
        "precision": precision,
        "class_accuracy": float((opinion.classes == labels.numpy()).mean()),
        "recall": recall,
        "diversity": diversity(opinion.features, labels.numpy()),
    }


def curve(
    make: Callable[..., Tensor], labels: Tensor, reference: Reference, truncations: Sequence[float]
) -> list[dict[str, float]]:
    """Quality against diversity: the metrics of `CURVE` at each truncation.

    Args:
        make: pictures [N, C, H, W] of the labels [N], `make(truncation=t)`.
        labels: of the pictures.
        reference: the real side.
        truncations: to try, above 0 up to 1.
    """
    return [
        {"truncation": truncation, **look(reference.judge.opinion(make(truncation=truncation)), labels, reference)}
        for truncation in truncations
    ]


def closest(samples: Tensor, found: Neighbours, reference: Reference) -> Tensor:
    """The `CLOSEST` pictures that are nearest to a training picture, each followed by that, [2 * N, C, H, W]."""
    order = found.distances.argsort()[:CLOSEST]
    beside = to_samples(reference.dataset.train.pictures[found.index[order].cpu()])
    return torch.stack([samples[order.cpu()].cpu(), beside.cpu()], 1).flatten(0, 1)


def _pixels(samples: Tensor) -> Tensor:
    return (samples.flatten(1) + 1) / 2
