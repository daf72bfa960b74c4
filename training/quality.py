"""Measuring models on data, with the judge: what evaluation, watching a run and publishing share.

Knows networks, pictures and the judge; knows nothing of runs, recipes or files.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.protocols import LatentModel
from models.vae import ConvVAE
from training import fluency, metrics
from training.data import Batch, Dataset, Split, to_samples
from training.errors import TrainingError
from training.judge import Judge, Opinion

BATCH = 100
WATCHED = 2000  # pictures a look at a running training
COLUMNS = 10  # of a sample grid
COPY_CHECK = 1000  # generated pictures that are compared with every training picture

GENERATOR_METRICS = (
    "fd_clf",
    "fd_clf_floor",
    "precision",
    "recall",
    "class_accuracy",
    "worst_class_accuracy",
    "copy_distance",
    "copy_distance_test",
)
METRICS = {
    "classifier": ("accuracy",),
    "gan": GENERATOR_METRICS,
    "vae": (*GENERATOR_METRICS, "negative_elbo"),
    "language": fluency.METRICS,
}


def check_metrics(kind: str, names: Iterable[str]) -> None:
    """Refuse gates on what is never measured, before the training rather than after it.

    Raises:
        TrainingError: a name is not among the metrics of this kind of objective.
    """
    for name in names:
        if name not in METRICS[kind]:
            raise TrainingError(f"gates.{name}: no such metric for a {kind} (there are {', '.join(METRICS[kind])})")


def latent_model(model: nn.Module) -> LatentModel:
    """The network as what it must be to generate.

    Raises:
        TrainingError: it is not a `LatentModel`.
    """
    if not isinstance(model, LatentModel):
        raise TrainingError(f"{type(model).__name__} is not a LatentModel: it can't generate pictures")
    return model


@torch.no_grad()
def generate(model: nn.Module, labels: Tensor, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Unpicked pictures of these labels [N], [N, C, H, W] in [-1, 1], computed in `dtype`; noise of their own."""
    model = _in_precision(model, dtype)
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(len(labels), *latent_model(model).latent_shape, generator=generator)
    device = next(model.parameters()).device
    chunks = zip(torch.split(latents, BATCH), torch.split(labels, BATCH), strict=True)
    return torch.cat([latent_model(model).decode(z.to(device, dtype), y.to(device)).float().cpu() for z, y in chunks])


def _in_precision(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model as it is served in this precision: all of it but the norms, which keep theirs."""
    if dtype == torch.float32:
        return model
    converted: nn.Module = copy.deepcopy(model).to(dtype)
    for module in converted.modules():
        if isinstance(module, nn.GroupNorm | nn.BatchNorm2d):
            module.float()
    return converted


def balanced_labels(count: int, classes: int) -> Tensor:
    """Every class equally often, in turn, [count]."""
    return torch.arange(count) % classes


def sample_grid(model: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """The first ten pictures of each class, a class a row, [classes * 10, C, H, W]."""
    classes = max(1, latent_model(model).num_classes)
    return generate(model, torch.arange(classes).repeat_interleave(COLUMNS), seed, dtype)


def _batches(split: Split, limit: int | None) -> Iterator[Batch]:
    count = min(len(split), limit or len(split))
    for index in torch.split(torch.arange(count, device=split.labels.device), BATCH):
        yield split.batch(index)


def check_generator(name: str, model: nn.Module, dataset: Dataset, judge: Judge) -> None:
    """Refuse what can't be compared: other classes than the judge's, other pictures than the data's.

    Raises:
        TrainingError: the message gives both sides.
    """
    classes = latent_model(model).num_classes
    if judge.num_classes != len(dataset.labels):
        raise TrainingError(f"the judge knows {judge.num_classes} classes, the data have {len(dataset.labels)}")
    if classes not in (0, judge.num_classes):
        raise TrainingError(f"{name} has {classes} classes, the judge knows {judge.num_classes}")
    made, real = list(sample_grid(model).shape[1:]), list(dataset.test.pictures.shape[1:])
    if made != real:
        raise TrainingError(f"{name} makes pictures of {made}, the data are {real}")


@torch.no_grad()
def measure_classifier(model: nn.Module, split: Split) -> dict[str, float]:
    """Share of pictures whose class is found."""
    device = next(model.parameters()).device
    right = sum(
        int((model(batch.samples.to(device)).argmax(1) == batch.labels.to(device)).sum())
        for batch in _batches(split, None)
    )
    return {"accuracy": right / len(split)}


def bound_terms(model: ConvVAE, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """-log p(x | z, y) with one posterior sample z, and the KL term, of each picture, in nats; each [N]."""
    mean, log_variance = (part.float() for part in model.posterior(batch.samples, batch.labels))
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    logits = model.logits(mean + noise * (log_variance / 2).exp(), batch.labels).float()
    targets = (batch.samples + 1) / 2
    nll = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").flatten(1).sum(1)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
    return nll, kl


@torch.no_grad()
def negative_elbo(model: ConvVAE, split: Split, limit: int | None = None, seed: int = 0) -> float:
    """Mean -ELBO in nats a picture, grey levels taken as Bernoulli means, one posterior sample each."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    found = [
        sum(bound_terms(model, Batch(batch.samples.to(device), batch.labels.to(device)), generator))
        for batch in _batches(split, limit)
    ]
    return float(torch.cat([part for part in found if isinstance(part, Tensor)]).double().mean())


@dataclass(frozen=True)
class Watch:
    """A cheap look at a generator under training: a few thousand pictures, the judge's opinion."""

    judge: Judge
    dataset: Dataset

    @cached_property
    def _real(self) -> Opinion:
        return self.judge.opinion(to_samples(self.dataset.test.pictures[:WATCHED]))

    def look(self, model: nn.Module) -> dict[str, float]:
        """Class accuracy, smallest class share (1 when all classes are seen equally often) and a rough distance."""
        count = min(WATCHED, len(self.dataset.test))
        labels = balanced_labels(count, self.judge.num_classes)
        opinion = self.judge.opinion(generate(model, labels, seed=0))
        counts = np.bincount(opinion.classes, minlength=self.judge.num_classes)
        return {
            "class_accuracy": float((opinion.classes == labels.numpy()).mean()),
            "min_class_share": float(counts.min() * self.judge.num_classes / count),
            "fd_clf_rough": metrics.frechet_distance(opinion.features, self._real.features),
        }


def measure_generator(
    model: nn.Module, judge: Judge, dataset: Dataset, count: int, seed: int, dtype: torch.dtype = torch.float32
) -> dict[str, float]:
    """The card's measurements of a generator that computes in `dtype`.

    Returns:
        fd_clf: Frechet distance on the judge's features, `count` generated pictures against the test split.
        fd_clf_floor: the same for as many training pictures: what perfect samples would score.
        precision, recall: of Kynkaanniemi et al. 2019 on the same features, k = 3.
        class_accuracy: share of generated pictures in which the judge sees the class that was asked for.
        worst_class_accuracy: the same for the worst class.
        copy_distance, copy_distance_test: median pixel distance to the nearest training picture, of generated and of
            test pictures; a model that copies has a much smaller one than the test split.
        negative_elbo: for a VAE, nats a test picture.
    """
    labels = balanced_labels(count, judge.num_classes)
    samples = generate(model, labels, seed, dtype)
    generated, test = judge.opinion(samples), judge.opinion(to_samples(dataset.test.pictures))
    chosen = np.random.default_rng(seed).permutation(len(dataset.train))[:count]
    train = judge.opinion(to_samples(dataset.train.pictures[torch.from_numpy(chosen)]))
    right = generated.classes == labels.numpy()
    precision, recall = metrics.precision_recall(test.features, generated.features)
    found = {
        "fd_clf": metrics.frechet_distance(generated.features, test.features),
        "fd_clf_floor": metrics.frechet_distance(train.features, test.features),
        "precision": precision,
        "recall": recall,
        "class_accuracy": float(right.mean()),
        "worst_class_accuracy": min(float(right[labels.numpy() == c].mean()) for c in range(judge.num_classes)),
        **_copy_distances(samples, dataset),
    }
    if isinstance(model, ConvVAE):
        found["negative_elbo"] = negative_elbo(model, dataset.test)
    return found


def _copy_distances(samples: Tensor, dataset: Dataset) -> dict[str, float]:
    """Median Euclidean distance to the nearest training picture, in grey levels 0..1 over all pixels."""
    train = _pixels(to_samples(dataset.train.pictures))
    return {
        "copy_distance": _median_nearest(_pixels(samples[:COPY_CHECK]), train),
        "copy_distance_test": _median_nearest(_pixels(to_samples(dataset.test.pictures[:COPY_CHECK])), train),
    }


def _pixels(samples: Tensor) -> Tensor:
    return (samples.flatten(1) + 1) / 2


def _median_nearest(points: Tensor, cloud: Tensor) -> float:
    nearest = [torch.cdist(chunk, cloud).amin(1) for chunk in torch.split(points, 100)]
    return float(torch.cat(nearest).median())
