"""What the pictures of an InfoGAN tell of their categories and codes, by a reader that took no part in the training.

The reader is a small classifier, taught here on pictures of the finished generator as they are served, in 8 bits, and
tried on others: what training hid from the eye, or from all but its own discriminator, is not read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.info_gan import InfoGenerator, even
from training import quality
from training.data import to_samples
from training.errors import TrainingError
from training.information import category_bound, code_bound
from training.judge import ConvJudge, Judge
from training.pictures import to_levels

EPOCHS, BATCH, RATE = 3, 100, 2e-3  # of the reader's lessons
EDGE = 2.0  # a code is served from -EDGE to EDGE: 95 % of what is drawn lies between
STEPS = quality.COLUMNS  # of a traversal


@dataclass(frozen=True)
class Told:
    """What pictures tell.

    Attributes:
        classes: the class of the data that the judge sees most often in each category, [categories].
        shares: of the pictures of each category in which it does, [categories].
        correlations: of each code with what is read of it, [codes].
        metrics: those of `information.METRICS` but category_purity, which is measured with the rest.
    """

    classes: Tensor
    shares: tuple[float, ...]
    correlations: tuple[float, ...]
    metrics: dict[str, float]

    def how(self, labels: Sequence[str]) -> dict[str, Any]:
        """For the card: which class each category shows, by these names, and how well each code is read."""
        seen = [
            {"class": labels[int(i)], "share": round(share, 3)}
            for i, share in zip(self.classes, self.shares, strict=True)
        ]
        read = {name(i): round(value, 3) for i, value in enumerate(self.correlations)}
        return {"categories": seen, "code_correlations": read}


@dataclass(frozen=True)
class Lesson:
    """Pictures [N, C, H, W] of 256 levels, their categories [N] and their codes [N, codes] in (-1, 1)."""

    samples: Tensor
    labels: Tensor
    codes: Tensor


def name(index: int) -> str:
    """Of a code, as users say it."""
    return f"code_{index}"


def controls(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The controls of a generator, for config.json; none where it has no codes."""
    if not isinstance(model, InfoGenerator):
        return {}
    first = model.latent_shape[0] - model.codes
    return {name(i): {"index": first + i, "min": -EDGE, "max": EDGE} for i in range(model.codes)}


def labels(model: nn.Module, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Names of what a generator takes for labels: the classes of its data, or categories that it found itself."""
    if not isinstance(model, InfoGenerator):
        return classes
    return tuple(f"category {i}" for i in range(model.num_classes))


def classes(model: nn.Module, names: tuple[str, ...]) -> dict[str, list[str]]:
    """What the card has to say of the classes of the data, where the model's labels are not their names."""
    return {"labels": list(names)} if isinstance(model, InfoGenerator) else {}


def renamed(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics of pictures whose labels are what their categories show, under names that say so."""
    kept = {key: value for key, value in metrics.items() if key not in ("class_accuracy", "worst_class_accuracy")}
    return {**kept, "category_purity": metrics["class_accuracy"]}


def finds_categories(card: Mapping[str, Any]) -> bool:
    """Whether a card is that of a model whose labels are categories that it found itself."""
    return "categories" in card.get("evaluation", {})


def shown(card: Mapping[str, Any], names: Sequence[str], labels: Tensor) -> Tensor:
    """The classes that labels [N] stand for by a card; the labels themselves where they are classes, [N].

    Raises:
        TrainingError: the card's table of categories can't be read.
    """
    if not finds_categories(card):
        return labels
    try:
        classes = [names.index(entry["class"]) for entry in card["evaluation"]["categories"]]
        return torch.tensor(classes)[labels]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise TrainingError(f"the card's categories do not fit the classes {', '.join(names)}: {error}") from error


def traversal(model: InfoGenerator, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """For each code in turn, a row for each category: one latent, its code from one end to the other.

    The latent of row i is the i-th of the seed, so nothing is picked: [codes * categories * STEPS, C, H, W].
    """
    categories = max(1, model.num_classes)
    drawn = torch.randn(categories, *model.latent_shape, generator=torch.Generator().manual_seed(seed))
    rows = drawn.repeat_interleave(STEPS, 0).repeat(model.codes, 1)
    ends = torch.linspace(-EDGE, EDGE, STEPS).repeat(categories)
    for i, part in enumerate(rows.chunk(model.codes)):
        part[:, model.latent_shape[0] - model.codes + i] = ends
    labels = torch.arange(categories).repeat_interleave(STEPS).repeat(model.codes)
    return quality.decode(model, rows, labels, dtype)


def measure(model: InfoGenerator, judge: Judge, count: int, seed: int, dtype: torch.dtype) -> Told:
    """Teach a reader with twice `count` pictures and try it on `count` others, which the judge sees too.

    The metrics, in nats a picture:
        class_information: mutual information of categories and the judge's classes; 0 where all show the same.
        category_information: lower bound on the mutual information of categories and pictures; log K at most.
        code_information: the same of all codes together; one that is not read counts nothing.
        least_code_correlation: of a code with what is read of it, for the code that is read worst.
    """
    taught, tried = (_lesson(model, n, seed + i, dtype) for i, n in ((1, 2 * count), (2, count)))
    logits, means = _read(_reader(taught, max(1, model.num_classes)), tried)
    errors = (means - tried.codes).square().mean(0)
    of_codes = code_bound(means, errors.log().expand_as(means), tried.codes)
    correlations = [_correlation(*pair) for pair in zip(means.T, tried.codes.T, strict=True)]
    counts = _counts(judge.opinion(tried.samples).classes, tried.labels, judge.num_classes)
    found = {
        "class_information": _mutual(counts),
        "category_information": float(category_bound(logits, tried.labels)),
        "code_information": float(of_codes.clamp(min=0).sum()),
        "least_code_correlation": min(correlations),
    }
    shares = tuple(float(row.max() / row.sum()) for row in counts)
    return Told(torch.from_numpy(counts.argmax(1)), shares, tuple(correlations), found)


def _lesson(model: InfoGenerator, count: int, seed: int, dtype: torch.dtype) -> Lesson:
    labels = quality.balanced_labels(count, max(1, model.num_classes))
    latents = torch.randn(count, *model.latent_shape, generator=torch.Generator().manual_seed(seed))
    samples = to_samples(to_levels(quality.decode(model, latents, labels, dtype)))
    return Lesson(samples, labels, even(latents[:, -model.codes :]))


def _reader(lesson: Lesson, categories: int) -> nn.Module:
    """A network that gives logits of the categories, then codes, [N, categories + codes]."""
    _, channels, side, _ = lesson.samples.shape
    outputs = categories + lesson.codes.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ConvJudge(num_classes=outputs, image_size=side, image_channels=channels)
        optimizer = torch.optim.AdamW(network.parameters(), RATE)
        batches = [index for _ in range(EPOCHS) for index in torch.split(torch.randperm(len(lesson.labels)), BATCH)]
        for step, index in enumerate(batches):
            optimizer.param_groups[0]["lr"] = RATE * (1 - step / len(batches))
            read = network(lesson.samples[index])
            loss = F.cross_entropy(read[:, :categories], lesson.labels[index])
            loss = loss + F.mse_loss(read[:, categories:], lesson.codes[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
    return network.eval()


@torch.no_grad()
def _read(reader: nn.Module, lesson: Lesson) -> tuple[Tensor, Tensor]:
    """Logits of the categories, [N, categories], and codes, [N, codes]."""
    read = torch.cat([reader(part) for part in torch.split(lesson.samples, BATCH)])
    codes = lesson.codes.shape[1]
    return read[:, :-codes], read[:, -codes:]


def _correlation(read: Tensor, drawn: Tensor) -> float:
    """Pearson's, of two times [N]; 0 where one of them never changes."""
    first, second = (part.double() - part.double().mean() for part in (read, drawn))
    size = float(first.norm() * second.norm())
    return float(first @ second) / size if size else 0.0


def _counts(seen: NDArray[np.int64], categories: Tensor, classes: int) -> NDArray[np.int64]:
    """How many pictures of each category the judge takes for each class, [categories, classes]."""
    own = categories.numpy()
    return np.stack([np.bincount(seen[own == c], minlength=classes) for c in range(int(own.max()) + 1)])


def _mutual(counts: NDArray[np.int64]) -> float:
    """Mutual information of rows and columns of a table of counts, in nats."""
    joint = counts / counts.sum()
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / apart[there])).sum())
