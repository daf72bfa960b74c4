"""What a synthetic set is worth: `python -m training.augmentation --synthetic DIR`, with DIR from `genserve dataset`.

Trains one small classifier, afresh each time and for equally many steps, on a part of the real pictures, on the same
part and the synthetic ones, and on the synthetic ones alone, each without and with classic augmentation; prints a table
of accuracies on the real test split. A generator knows more than the part: whatever it was trained on. Exit status: 0
the table is printed, 1 something is wrong, said in one line, 130 interrupted.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training import quality
from training.classifier import augment
from training.data import DEFAULT_PATHS, Dataset, Loader, Split, load_dataset, parse_idx
from training.data_recipe import DataRecipe
from training.errors import TrainingError
from training.judge import ConvJudge

IDX_FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
MANIFEST = "manifest.json"
CHANNELS, FEATURES = (16, 32), 64  # of the classifier: half the judge's
BATCH, LEARNING_RATE, BETAS, WEIGHT_DECAY = 64, 2e-3, (0.9, 0.999), 1e-2
DRAW_SEED = 0  # of the part of the real pictures: every training of a row sees the same
MAX_SEEDS = 100


@dataclass(frozen=True)
class Synthetic:
    """A set that `genserve dataset` wrote, and what its manifest says."""

    split: Split
    manifest: Mapping[str, Any]


@dataclass(frozen=True)
class Mixture:
    """What a classifier is trained on.

    Attributes:
        name: of the table's row.
        split: real pictures, synthetic ones, or both.
        real: how many of them are real.
    """

    name: str
    split: Split
    real: int


@dataclass(frozen=True)
class Row:
    """Test accuracies on one mixture, one a seed, without and with classic augmentation."""

    mixture: Mixture
    plain: tuple[float, ...]
    augmented: tuple[float, ...]


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a synthetic set says of itself.

    Raises:
        TrainingError: there is no manifest, it is none of `genserve dataset`, or the set is not complete.
    """
    path = folder / MANIFEST
    try:
        found = dict(json.loads(path.read_bytes()))
        known = isinstance(found["model"], str) and len(found["labels"]) == len(found["classes"]) > 0
        layout, complete = found["parameters"]["format"], found["complete"]
    except OSError as error:
        raise TrainingError(f"{path}: {error.strerror}; `genserve dataset` writes one") from None
    except (ValueError, KeyError, TypeError):
        known = False
    if not known or layout not in ("png", "idx"):
        raise TrainingError(f"{path}: not a manifest of genserve dataset")
    if complete is not True:
        raise TrainingError(f"{folder}: not complete; run `genserve dataset` again, it goes on where it was")
    return found


def load_synthetic(folder: Path) -> Synthetic:
    """Read a synthetic set, in either of its layouts.

    Raises:
        TrainingError: it is missing, not complete or damaged.
    """
    manifest = read_manifest(folder)
    try:
        read = _read_idx if manifest["parameters"]["format"] == "idx" else _read_png
        pictures, labels = read(folder, manifest)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{folder}: not what its manifest promises: {error}") from error
    if pictures.ndim != 3 or len(pictures) != len(labels) or labels.max() >= len(manifest["labels"]):
        raise TrainingError(f"{folder}: {pictures.shape} pictures do not fit {labels.shape} labels")
    return Synthetic(Split(torch.from_numpy(pictures.copy())[:, None], torch.from_numpy(labels.copy())), manifest)


def _read_idx(folder: Path, _manifest: Mapping[str, Any]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    pictures, labels = (parse_idx(folder / name, (folder / name).read_bytes()) for name in IDX_FILES)
    return pictures, labels.astype(np.int64)


def _read_png(folder: Path, manifest: Mapping[str, Any]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    pictures, labels = [], []
    for label, category in enumerate(manifest["classes"]):
        paths = sorted((folder / category["folder"]).glob("*.png"))
        if len(paths) != category["count"]:
            raise ValueError(f"{len(paths)} pictures of class {category['label']!r} instead of {category['count']}")
        for path in paths:
            with Image.open(path) as image:
                pictures.append(np.asarray(image, np.uint8))
        labels += [label] * len(paths)
    return np.stack(pictures), np.array(labels)


def part(split: Split, fraction: float, classes: int) -> Split:
    """So large a share of a split, equally many of each class; always the same pictures.

    Raises:
        TrainingError: a class has too few, or the share is less than one picture of each.
    """
    count = round(fraction * len(split) / classes)
    random = np.random.default_rng(DRAW_SEED)
    chosen = []
    for label in range(classes):
        own = random.permutation(np.flatnonzero(split.labels.numpy() == label))
        if not 0 < count <= len(own):
            raise TrainingError(f"fraction {fraction:g}: {count} pictures a class; class {label} has {len(own)}")
        chosen.append(own[:count])
    index = torch.from_numpy(np.concatenate(chosen))
    return Split(split.pictures[index], split.labels[index])


def joined(a: Split, b: Split) -> Split:
    """All pictures of both."""
    return Split(torch.cat([a.pictures, b.pictures]), torch.cat([a.labels, b.labels]))


def mixtures(dataset: Dataset, synthetic: Split, fractions: Sequence[float]) -> list[Mixture]:
    """What classifiers are trained on, a row each."""
    found = []
    for fraction in fractions:
        real = part(dataset.train, fraction, len(dataset.labels))
        found.append(Mixture(f"{fraction:.4g} of the real", real, len(real)))
        found.append(Mixture(f"{fraction:.4g} of the real + synthetic", joined(real, synthetic), len(real)))
    return [*found, Mixture("synthetic alone", synthetic, 0)]


def train(split: Split, classes: int, *, seed: int, steps: int, augmented: bool) -> ConvJudge:
    """A small classifier after so many steps of cross-entropy with AdamW; bit for bit the same for the same seed.

    Raises:
        TrainingError: the split is smaller than a batch.
    """
    torch.manual_seed(seed)
    channels, side = split.pictures.shape[1:3]
    network = ConvJudge(
        num_classes=classes, channels=CHANNELS, features=FEATURES, image_size=side, image_channels=channels
    )
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third of the time less on a CPU
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY)
    loader = Loader(split, BATCH, seed)
    for step in range(steps):
        for group in optimizer.param_groups:  # to zero by half a cosine, as in every run
            group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        samples, labels = loader.next()
        _step(network, optimizer, augment(samples) if augmented else samples, labels)
    network.eval()
    return network


def _step(network: ConvJudge, optimizer: torch.optim.Optimizer, samples: Tensor, labels: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(samples.contiguous(memory_format=torch.channels_last))
    loss = F.cross_entropy(logits.float(), labels)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    optimizer.step()


def measure(dataset: Dataset, mixture: Mixture, seeds: int, steps: int) -> Row:
    """Train on a mixture, once a seed without and once with augmentation; accuracy on the real test split."""
    found = [tuple(_accuracies(dataset, mixture, seeds, steps, augmented)) for augmented in (False, True)]
    return Row(mixture, *found)


def _accuracies(dataset: Dataset, mixture: Mixture, seeds: int, steps: int, augmented: bool) -> Iterator[float]:
    for seed in range(seeds):
        network = train(mixture.split, len(dataset.labels), seed=seed, steps=steps, augmented=augmented)
        accuracy = quality.measure_classifier(network, dataset.test)["accuracy"]
        print(f"{mixture.name}, {'augmented, ' * augmented}seed {seed}: {accuracy:.4f}", file=sys.stderr)
        yield accuracy


def table(rows: Sequence[Row]) -> str:
    """Markdown: a mixture a line, accuracy in per cent, mean and standard deviation over the seeds."""
    lines = ["| trained on | real | synthetic | plain | mirrored and shifted |", "|---|---|---|---|---|"]
    for row in rows:
        real, made = row.mixture.real, len(row.mixture.split) - row.mixture.real
        lines.append(f"| {row.mixture.name} | {real:,} | {made:,} | {_shown(row.plain)} | {_shown(row.augmented)} |")
    return "\n".join(lines)


def _shown(accuracies: Sequence[float]) -> str:
    mean = f"{100 * statistics.fmean(accuracies):.1f}"
    return f"{mean} ± {100 * statistics.stdev(accuracies):.1f} %" if len(accuracies) > 1 else f"{mean} %"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.augmentation", description="Measure what a synthetic set is worth to a classifier."
    )
    add = parser.add_argument
    add("--synthetic", type=Path, required=True, metavar="DIR", help="that genserve dataset wrote")
    add("--real", default=DEFAULT_PATHS["fashion-mnist"], metavar="DIR", help="the data set (default: %(default)s)")
    add("--fractions", type=float, nargs="+", default=[0.01, 0.1], help="of the real pictures (default: 0.01 0.1)")
    add("--seeds", type=int, default=3, help="trainings of each kind (default: %(default)s)")
    add("--steps", type=int, default=1000, help=f"of {BATCH} pictures, of each training (default: %(default)s)")
    add("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    return parser


def _run(options: argparse.Namespace) -> int:
    _check(options)
    torch.set_num_threads(options.threads)
    synthetic = load_synthetic(options.synthetic)
    dataset = _real(Path(options.real), synthetic.manifest)
    made, real = synthetic.split.pictures.shape[1:], dataset.test.pictures.shape[1:]
    if made != real:
        raise TrainingError(f"{options.synthetic} has pictures of {list(made)}, {options.real} of {list(real)}")
    print(f"{synthetic.manifest['model']}, {options.seeds} seeds, {options.steps:,} steps of {BATCH} each\n")
    rows = [
        measure(dataset, mixture, options.seeds, options.steps)
        for mixture in mixtures(dataset, synthetic.split, options.fractions)
    ]
    print(table(rows))
    return 0


def _real(folder: Path, manifest: Mapping[str, Any]) -> Dataset:
    """The real data; a folder that bears the name of a known set is checked to be that."""
    labels = tuple(map(str, manifest["labels"]))
    return load_dataset(DataRecipe(folder.name, str(folder), "", labels))


def _check(options: argparse.Namespace) -> None:
    for fraction in options.fractions:
        if not 0 < fraction <= 1:
            raise TrainingError(f"--fractions {fraction:g}: above 0, up to 1")
    for flag, value, most in (("seeds", options.seeds, MAX_SEEDS), ("steps", options.steps, 10**6)):
        if not 1 <= value <= most:
            raise TrainingError(f"--{flag} {value}: a whole number from 1 to {most:,}")
    if options.threads < 1:
        raise TrainingError(f"--threads {options.threads}: at least 1")


if __name__ == "__main__":
    sys.exit(main())
