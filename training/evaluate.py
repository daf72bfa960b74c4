"""Measure a weights folder: `python -m training.evaluate NAME` for `weights/NAME` or `training/judges/NAME`.

Prints a table, writes the metrics into the folder's `config.json` and writes README.md and samples.png (of a language
model, samples.txt) anew. Exit status: 0 all gates of the card are passed; 1 a gate is missed or something is
wrong, said in one line.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import checkpoint
from models.checkpoint import Checkpoint, CheckpointError, ModelConfig, write_atomically
from training import card as cards
from training import fluency, quality, text, text_card
from training.data import DEFAULT_PATHS, Dataset, load_dataset
from training.errors import TrainingError
from training.judge import JUDGES, Judge, load_judge
from training.pictures import write_grid
from training.recipe import DataRecipe, TextRecipe
from training.text import Corpus
from training.writer import Writer, as_writer, load_writer

JUDGE = Path("training/judges/fashion")
COUNT = 10_000
SERVED_DTYPE = torch.bfloat16  # what the service computes pictures in wherever the hardware has it


@dataclass(frozen=True)
class Evaluation:
    """Metrics, how they were taken, and unpicked pictures (None for a classifier) or texts."""

    metrics: dict[str, float]
    how: dict[str, Any]
    samples: Tensor | None
    texts: tuple[str, ...] = ()


def networks() -> dict[str, type[nn.Module]]:
    """The architectures that can be measured: those that can be served, and judges."""
    return {**checkpoint.served(), **JUDGES}


def evaluate(
    loaded: Checkpoint, dataset: Dataset, judge: Judge | None, *, count: int = COUNT, seed: int = 0
) -> Evaluation:
    """Measure a loaded network: accuracy for a judge; distances, precision, recall and obedience for a generator.

    Args:
        loaded: from a weights folder, so that what is measured is what is served.
        dataset: the data that it was trained on.
        judge: whose features and opinion count; not used when the network is a judge itself.
        count: generated pictures.
        seed: of their latents.

    Raises:
        TrainingError: a generator without a judge, or one that does not fit the judge or the data.
    """
    if loaded.config.architecture in JUDGES:
        metrics = quality.measure_classifier(loaded.model, dataset.test)
        return Evaluation(cards.rounded(metrics), {"count": len(dataset.test)}, None)
    if judge is None:
        raise TrainingError(f"{loaded.name}: a judge is needed to measure a generator")
    quality.check_generator(loaded.name, loaded.model, dataset, judge)
    metrics = quality.measure_generator(loaded.model, judge, dataset, count, seed, SERVED_DTYPE)
    how = {"count": count, "seed": seed, "judge": judge.digest, "dtype": str(SERVED_DTYPE).removeprefix("torch.")}
    return Evaluation(cards.rounded(metrics), how, quality.sample_grid(loaded.model, dtype=SERVED_DTYPE))


def evaluate_writer(writer: Writer, corpus: Corpus, peer: str) -> Evaluation:
    """Measure a language model on the held-out works, beside its peer's weights folder ("" for none).

    Raises:
        TrainingError: the peer can't be loaded, or was trained on other data.
    """
    texts = fluency.generate(writer.network, writer.tokenizer, range(fluency.WRITTEN))
    metrics = {"bits_per_byte": fluency.bits_per_byte(writer.network, writer.tokenizer, corpus.test)}
    how = {
        "bytes": sum(len(work.content.encode()) for work in corpus.test),
        "window": fluency.sequence_model(writer.network).max_length,
        "written": len(texts),
        "peer": peer,
    }
    if peer:
        other = load_writer(Path(peer))
        if other.training_data != corpus.card():
            raise TrainingError(f"{peer}: was trained on other data, or on another split of them")
        metrics["peer_bits_per_byte"] = fluency.bits_per_byte(other.network, other.tokenizer, corpus.test)
        metrics["margin"] = metrics["peer_bits_per_byte"] - metrics["bits_per_byte"]
        how["peer_digest"] = other.digest
    metrics |= fluency.measure_overlap(texts, corpus)
    return Evaluation(cards.rounded(metrics), how, None, tuple(texts))


def write_evaluation(folder: Path, config: ModelConfig, found: Evaluation) -> ModelConfig:
    """Write an evaluation into a weights folder: the card, README.md and samples.png; returns the new configuration."""
    config = checkpoint.with_card(config, {**config.card, "metrics": found.metrics, "evaluation": found.how})
    if found.samples is not None:
        write_grid(folder / "samples.png", found.samples, quality.COLUMNS)
    if found.texts:
        write_atomically(folder / "samples.txt", text_card.all_samples(found.texts).encode())
    write_atomically(folder / "README.md", cards.render(folder.name, config, found.texts).encode())
    checkpoint.write_config(folder, config)
    return config


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (TrainingError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description="Measure a weights folder.")
    parser.add_argument("name", help="of a folder in weights/ or training/judges/, or a path")
    parser.add_argument("--judge", type=Path, default=JUDGE, help="the judge's folder (default: %(default)s)")
    parser.add_argument("--data", help="folder of the data (default: where the Debian package puts it)")
    parser.add_argument("--count", type=int, default=COUNT, help="generated pictures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the latents (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--dry-run", action="store_true", help="print the table, write nothing")
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.count < 10:
        raise TrainingError(f"--count {options.count}: at least 10 pictures are needed")
    if options.threads is not None and options.threads < 1:
        raise TrainingError(f"--threads {options.threads}: at least 1")
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = find_folder(options.name)
    loaded = checkpoint.load(folder, networks())
    found = _measure(folder, loaded, options)
    card = {**loaded.config.card, "metrics": found.metrics, "evaluation": found.how}
    print(cards.table(loaded.name, card))
    if not options.dry_run:
        write_evaluation(folder, loaded.config, found)
    if missed := cards.missed_gates(card):
        raise TrainingError(f"{loaded.name}: gates missed: {'; '.join(missed)}")
    return 0


def _measure(folder: Path, loaded: Checkpoint, options: argparse.Namespace) -> Evaluation:
    if loaded.config.tokenizer is not None:
        peer = loaded.config.card.get("evaluation", {}).get("peer", "")
        return evaluate_writer(as_writer(folder, loaded), corpus_of(loaded, options.data), peer)
    dataset = dataset_of(loaded, options.data)
    judge = None if loaded.config.architecture in JUDGES else load_judge(options.judge)
    return evaluate(loaded, dataset, judge, count=options.count, seed=options.seed)


def find_folder(name: str) -> Path:
    """The folder that a name stands for.

    Raises:
        TrainingError: there is none.
    """
    places = [Path("weights") / name, Path("training/judges") / name, Path(name)]
    for place in places:
        if (place / checkpoint.CONFIG_FILE).is_file():
            return place
    raise TrainingError(
        f"{name}: no weights folder (looked for {', '.join(str(p / checkpoint.CONFIG_FILE) for p in places)})"
    )


def dataset_of(loaded: Checkpoint, path: str | None) -> Dataset:
    """The data that the card of a model names, checked against the sha256 given there.

    Raises:
        TrainingError: the card names no data, the place is not known, or the data are others.
    """
    named, place = _training_data(loaded, path, DEFAULT_PATHS, ("name", "license", "sha256"))
    dataset = load_dataset(DataRecipe(named["name"], place, named["license"], loaded.config.labels))
    if dict(dataset.sha256) != named["sha256"]:
        raise TrainingError(f"{place}: not the data that {loaded.name} was trained on (sha256 differ)")
    return dataset


def corpus_of(loaded: Checkpoint, path: str | None) -> Corpus:
    """The texts that the card of a language model names, split as it says.

    Raises:
        TrainingError: the card names no data, the place is not known, or the data are others.
    """
    keys = ("name", "license", "files", "validation", "held_out", "sha256")
    named, place = _training_data(loaded, path, text.DEFAULT_PATHS, keys)
    network = fluency.sequence_model(loaded.model)
    recipe = TextRecipe(
        "text",
        named["name"],
        place,
        named["license"],
        named["files"],
        tuple(named["validation"]),
        tuple(named["held_out"]),
        network.vocab_size,
        network.max_length,
    )
    corpus = text.load_corpus(recipe)
    if corpus.card() != named:
        raise TrainingError(f"{place}: not the data that {loaded.name} was trained on (sha256 differ)")
    return corpus


def _training_data(
    loaded: Checkpoint, path: str | None, places: Mapping[str, str], keys: tuple[str, ...]
) -> tuple[Mapping[str, Any], str]:
    """What the card says about the data, and where they are."""
    named = loaded.config.card.get("training_data", {})
    if not set(keys) <= named.keys():
        raise TrainingError(
            f"{loaded.name}: its card does not name its training data, so there is nothing to measure against"
        )
    place = path or places.get(named["name"])
    if place is None:
        raise TrainingError(f"{loaded.name}: say with --data where {named['name']} is")
    return named, place


if __name__ == "__main__":
    sys.exit(main())
