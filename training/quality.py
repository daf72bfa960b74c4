"""Measuring models on data, with the judge: what evaluation, watching a run and publishing share.

Knows networks, pictures and the judge; knows nothing of runs, recipes or files.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.protocols import LatentModel
from models.vae import ConvVAE
from training import fluency, hearing, illustration, information, measurement, metrics, reconstruction
from training.data import Batch, Dataset, Split, to_samples
from training.errors import TrainingError
from training.judge import Judge, Opinion
from training.latents import draw_latents

BATCH = 100
SERVED_DTYPE = torch.bfloat16  # what the service computes pictures in wherever the hardware has it
WATCHED = 2000  # pictures a look at a running training
COLUMNS = 10  # of a sample grid

METRICS = {
    "classifier": ("accuracy",),
    "gan": (*measurement.METRICS, *information.METRICS),  # the latter of an InfoGAN alone
    "vae": (*measurement.METRICS, "negative_elbo"),
    "language": fluency.METRICS,
    "vq": reconstruction.METRICS,
    "text-to-image": illustration.METRICS,
    "audio": hearing.METRICS,
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
def generate(
    model: nn.Module, labels: Tensor, seed: int, dtype: torch.dtype = torch.float32, truncation: float = 1.0
) -> Tensor:
    """Unpicked pictures of these labels [N], [N, C, H, W] in [-1, 1], computed in `dtype`; noise of their own.

    The truncation scales the latents, as it does in the service.
    """
    generator = torch.Generator().manual_seed(seed)
    return decode(model, draw_latents(latent_model(model), len(labels), generator) * truncation, labels, dtype)


@torch.no_grad()
def decode(model: nn.Module, latents: Tensor, labels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Pictures of these latents [N, *latent_shape] and labels [N], [N, C, H, W] in [-1, 1], computed in `dtype`."""
    model = _in_precision(model, dtype)
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
    """Refuse what can't be compared: other data or classes than the judge's, other pictures than the data's.

    Raises:
        TrainingError: the message gives both sides.
    """
    check_comparable(name, latent_model(model).num_classes, sample_grid(model).shape[1:], dataset, judge)


def check_comparable(name: str, classes: int, shape: Sequence[int], dataset: Dataset, judge: Judge) -> None:
    """The same for a model that is known by its classes and the shape [C, H, W] of its pictures.

    Raises:
        TrainingError: the message gives both sides.
    """
    if judge.data not in ("", dataset.name):
        raise TrainingError(f"the judge was trained on {judge.data}, {name} on {dataset.name}")
    if judge.num_classes != len(dataset.labels):
        raise TrainingError(f"the judge knows {judge.num_classes} classes, the data have {len(dataset.labels)}")
    if classes not in (0, judge.num_classes):
        raise TrainingError(f"{name} has {classes} classes, the judge knows {judge.num_classes}")
    if list(shape) != (real := list(dataset.test.pictures.shape[1:])):
        raise TrainingError(f"{name} makes pictures of {list(shape)}, the data are {real}")


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
    """-log p(x | z, y) with one posterior sample z, and the KL to the prior, of each picture, in nats; each [N]."""
    mean, log_variance = (part.float() for part in model.posterior(batch.samples, batch.labels))
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    logits = model.logits(mean + noise * (log_variance / 2).exp(), batch.labels).float()
    targets = (batch.samples + 1) / 2
    nll = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").flatten(1).sum(1)
    return nll, model.divergence(mean, log_variance, noise, batch.labels).float()


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
    """A cheap look at a generator under training: a few thousand pictures, the judge's opinion.

    They are compared with training pictures, drawn from those of odd number, which a guide has not seen: what picks a
    network must not be what measures it.
    """

    judge: Judge
    dataset: Dataset

    @cached_property
    def _real(self) -> Opinion:
        pictures = self.dataset.train.pictures[1::2]
        chosen = np.random.default_rng(0).permutation(len(pictures))[:WATCHED]
        return self.judge.opinion(to_samples(pictures[torch.from_numpy(chosen)]))

    def look(self, model: nn.Module) -> dict[str, float]:
        """Class accuracy, smallest class share (1 when all classes are seen equally often) and a rough distance."""
        count = min(WATCHED, len(self.dataset.train) // 2)
        labels = balanced_labels(count, self.judge.num_classes)
        opinion = self.judge.opinion(generate(model, labels, seed=0))
        counts = np.bincount(opinion.classes, minlength=self.judge.num_classes)
        return {
            "class_accuracy": float((opinion.classes == labels.numpy()).mean()),
            "min_class_share": float(counts.min() * self.judge.num_classes / count),
            "fd_clf_rough": metrics.frechet_distance(opinion.features, self._real.features),
        }
