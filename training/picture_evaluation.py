"""The evaluation of networks that make pictures of latents, and of the judges that look at pictures.

Knows networks, data and judges; knows nothing of folders.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from models.checkpoint import Checkpoint
from models.info_gan import InfoGenerator
from models.vae import ConvVAE
from training import card as cards
from training import codes, quality
from training.data import Dataset, to_samples
from training.errors import TrainingError
from training.evaluation import Evaluation
from training.inception import Inception
from training.judge import JUDGES, Judge
from training.measurement import Reference, check_count, curve, measure
from training.quality import SERVED_DTYPE
from training.wanted import Wanted

COUNT = 10_000


@dataclass(frozen=True)
class Extras:
    """What takes long and is measured only when asked for.

    Attributes:
        truncations: points of the curve of quality against diversity.
        inception: the network of the standard FID.
    """

    truncations: tuple[float, ...] = ()
    inception: Inception | None = None


NOTHING = Extras()


def extras(asked: Wanted) -> Extras:
    """The extras that the command line asks for.

    Raises:
        TrainingError: the Inception network can't be loaded.
    """
    return Extras(asked.truncations, Inception(asked.inception) if asked.inception else None)


def evaluate(
    loaded: Checkpoint,
    dataset: Dataset,
    judge: Judge | None,
    *,
    count: int = COUNT,
    seed: int = 0,
    extras: Extras = NOTHING,
) -> Evaluation:
    """Measure a loaded network: accuracy for a judge; distances, precision, recall and obedience for a generator.

    Args:
        loaded: from a weights folder, so that what is measured is what is served.
        dataset: the data that it was trained on.
        judge: whose features and opinion count; not used when the network is a judge itself.
        count: generated pictures.
        seed: of their latents.
        extras: what else to measure.

    Raises:
        TrainingError: a generator without a judge, or one that does not fit the judge or the data; too few pictures.
    """
    if loaded.config.architecture in JUDGES:
        metrics = quality.measure_classifier(loaded.model, dataset.test)
        return Evaluation(cards.rounded(metrics), {"count": len(dataset.test)}, None)
    if judge is None:
        raise TrainingError(f"{loaded.name}: a judge is needed to measure a generator")
    check_count(count, judge.num_classes)
    quality.check_generator(loaded.name, loaded.model, dataset, judge)
    labels = quality.balanced_labels(count, judge.num_classes)
    how = {"count": count, "seed": seed, "judge": judge.digest, "dtype": str(SERVED_DTYPE).removeprefix("torch.")}
    make = partial(quality.generate, loaded.model, labels, seed, SERVED_DTYPE)
    if isinstance(loaded.model, InfoGenerator):
        told = codes.measure(loaded.model, judge, count, seed, SERVED_DTYPE)
        labels = told.classes[labels]
        how |= told.how(dataset.labels)
    found = evaluate_pictures(make(), make, labels, Reference(judge, dataset, seed), how, extras)
    if isinstance(loaded.model, InfoGenerator):
        found = _with_codes(found, told, codes.traversal(loaded.model, SERVED_DTYPE))
    if isinstance(loaded.model, ConvVAE):
        bound = {"negative_elbo": quality.negative_elbo(loaded.model, dataset.test)}
        found = replace(found, metrics=found.metrics | cards.rounded(bound))
    return replace(found, samples=quality.sample_grid(loaded.model, dtype=SERVED_DTYPE))


def _with_codes(found: Evaluation, told: codes.Told, traversal: Tensor) -> Evaluation:
    """The evaluation of an InfoGAN, whose labels are categories that were never said to be classes of the data."""
    metrics = {**codes.renamed(found.metrics), **cards.rounded(told.metrics)}
    assert found.measurement is not None
    by_class = replace(found.measurement, by_class=told.shares)
    return replace(found, metrics=metrics, measurement=by_class, traversal=traversal)


def evaluate_pictures(
    samples: Tensor,
    make: Callable[..., Tensor],
    labels: Tensor,
    reference: Reference,
    how: Mapping[str, Any],
    extras: Extras,
) -> Evaluation:
    """Measure pictures [N, C, H, W] of these labels [N]; without sample pictures.

    Args:
        samples: the pictures.
        make: other pictures of the same labels, `make(truncation=t)`.
        labels: that were asked for.
        reference: the real side.
        how: how the pictures came about.
        extras: what else to measure.

    Raises:
        TrainingError: too few pictures; the Inception network can't look at them.
    """
    found = measure(samples, labels, reference)
    metrics, more = dict(found.metrics), {}
    if extras.inception is not None:
        metrics["fid_inception"] = extras.inception.distance(samples, to_samples(reference.dataset.test.pictures))
        more = {"inception": extras.inception.digest[:16]}
    points = [cards.rounded(point) for point in curve(make, labels, reference, extras.truncations)]
    return Evaluation(cards.rounded(metrics), {**how, **more}, None, measurement=found, curve=points)
