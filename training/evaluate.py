"""Measure a weights folder: `python -m training.evaluate NAME` for `weights/NAME` or `training/judges/NAME`.

Prints a table, writes the metrics into the folder's `config.json` and writes README.md and samples.png (of a language
model, samples.txt) anew; `--report` writes an HTML page and a JSON file beside. Exit status: 0 all gates of the card
are passed; 1 a gate is missed or something is wrong, said in one line. `training.served` measures a running service.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from models import checkpoint
from models.architecture import served
from models.checkpoint import Checkpoint
from models.config import ModelConfig, with_card, write_config
from models.errors import CheckpointError
from models.files import CONFIG_FILE, write_atomically
from models.info_gan import InfoGenerator
from models.precision import pack
from models.text_to_image import TextToImage
from models.vae import ConvVAE
from models.vq import VQVAE
from models.wavenet import WaveNet
from training import (
    audio_card,
    captioned,
    codes,
    control_card,
    fluency,
    hearing,
    illustration,
    listening,
    quality,
    reconstruction,
    temperature,
    text,
    text_card,
    wanted,
)
from training import card as cards
from training.captioned import CaptionedDataset, same_data
from training.data import DEFAULT_PATHS, Dataset, load_dataset, to_samples
from training.data_recipe import DataRecipe, TextRecipe
from training.errors import TrainingError
from training.history import History, read_history
from training.illustrator import Illustrator, check_fit, decoder_of, load_decoder
from training.inception import Inception
from training.judge import JUDGES, Judge, judge_folder, load_judge
from training.measurement import Measurement, Reference, check_count, curve, measure
from training.pictures import write_grid
from training.report import Report, write_report
from training.speech import SpeechDataset, load_same_speech
from training.text import Corpus
from training.wanted import Wanted
from training.writer import Writer, as_writer, load_writer

COUNT = 10_000
SERVED_DTYPE = torch.bfloat16  # what the service computes pictures in wherever the hardware has it


@dataclass(frozen=True)
class Evaluation:
    """Metrics, how they were taken, and unpicked pictures (None for a classifier) or texts.

    Attributes:
        measurement: of a generator of pictures, what a report shows beside its metrics.
        curve: its metrics at each truncation, if that was asked for.
        clips: that a network for speech has made.
        traversal: pictures along each code of an InfoGAN, `codes.STEPS` a row.
        chosen: arguments of the network that were found best, in place of its own.
    """

    metrics: dict[str, float]
    how: dict[str, Any]
    samples: Tensor | None
    texts: tuple[str, ...] = ()
    measurement: Measurement | None = None
    curve: Sequence[Mapping[str, float]] = ()
    traversal: Tensor | None = None
    clips: tuple[listening.Shown, ...] = ()
    chosen: Mapping[str, Any] = field(default_factory=dict)


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


def networks() -> dict[str, type[nn.Module]]:
    """The architectures that can be measured: those that can be served, and judges."""
    return {**served(), **JUDGES}


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


def check_impartial(name: str, card: Mapping[str, Any], judge: Judge) -> None:
    """Refuse a judge that steered the training or picked the weights: it can't measure them.

    Raises:
        TrainingError: the card names this judge as the guide.
    """
    if card.get("guide") == judge.digest:
        raise TrainingError(f"{name} was steered by the judge {judge.digest}, which therefore can't measure it")


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


def evaluate_vq(loaded: Checkpoint, dataset: CaptionedDataset) -> Evaluation:
    """Measure a discrete autoencoder on scenes that were held out, and on all emoji."""
    assert isinstance(loaded.model, VQVAE)
    how = {"scenes": len(dataset.test), "emoji": len(dataset.emoji), "dtype": "float32"}
    metrics = reconstruction.measure(loaded.model, dataset)
    return Evaluation(cards.rounded(metrics), how, reconstruction.sample_grid(loaded.model, dataset))


def evaluate_text_to_image(
    loaded: Checkpoint, decoder: Checkpoint, dataset: CaptionedDataset, judge: Judge, scales: Sequence[float]
) -> Evaluation:
    """Measure a text-to-image network on captions that were held out, at these guidance scales.

    The best scale is chosen as the network's own.

    Raises:
        TrainingError: the network does not fit the decoder or the data.
    """
    assert isinstance(loaded.model, TextToImage)
    illustrator = Illustrator(loaded.model, decoder_of(decoder))
    check_fit(illustrator.network, illustrator.decoder, dataset)
    bits = illustration.bits_per_code(illustrator, dataset, limit=illustration.CODED)
    served = replace(illustrator, network=copy.deepcopy(loaded.model))
    pack(served.network, "bf16")
    found = illustration.measure(served, dataset, judge, scales)
    how = {
        "count": found.count,
        "scenes": min(len(dataset.test), illustration.CODED),
        "emoji": min(len(dataset.emoji), illustration.CODED),
        "seed": 0,
        "judge": judge.digest,
        "decoder": f"{decoder.name}@{decoder.config.digest[:16]}",
        "dtype": str(SERVED_DTYPE).removeprefix("torch."),
        "curve": [cards.rounded(point) for point in found.curve],
        "captions": illustration.shown(dataset),
    }
    samples = illustration.sample_grid(served, dataset, found.guidance)
    return Evaluation(cards.rounded({**found.metrics, **bits}), how, samples, chosen={"guidance": found.guidance})


def evaluate_speech(loaded: Checkpoint, dataset: SpeechDataset) -> Evaluation:
    """Measure a network for speech on the held-out clips."""
    assert isinstance(loaded.model, WaveNet)
    heard = listening.listen(loaded.model, dataset, listening.TEMPERATURES)
    how = {**hearing.how(dataset), **heard.how, "temperature": heard.temperature, "temperatures": heard.rows}
    how["shown"] = [{"name": clip.name, "text": clip.text} for clip in heard.shown]
    return Evaluation(cards.rounded(hearing.measure(loaded.model, dataset)), how, None, clips=heard.shown)


def evaluate_writer(writer: Writer, corpus: Corpus, peer: str, origin: str = "") -> Evaluation:
    """Measure a language model on the held-out works, beside its peer and what it started from ("" for none).

    Raises:
        TrainingError: one of these can't be loaded, or the peer was trained on other data.
    """
    texts = fluency.generate(writer.network, writer.tokenizer, range(fluency.WRITTEN))
    bits = fluency.bits_per_byte(writer.network, writer.tokenizer, corpus.test)
    metrics = {"bits_per_byte": bits, "perplexity": fluency.perplexity(bits, corpus.test)}
    how: dict[str, Any] = {
        "bytes": sum(len(work.content.encode()) for work in corpus.test),
        "window": fluency.sequence_model(writer.network).max_length,
        "written": len(texts),
        "dtype": "float32",
        "peer": peer,
        "origin": origin,
    }
    reader = writer
    if origin:
        before = load_writer(find_folder(origin))
        metrics["origin_bits_per_byte"] = fluency.bits_per_byte(before.network, before.tokenizer, corpus.test)
    if peer:
        reader = load_peer(peer, corpus)
        metrics["peer_bits_per_byte"] = fluency.bits_per_byte(reader.network, reader.tokenizer, corpus.test)
        metrics["margin"] = metrics["peer_bits_per_byte"] - bits
        how |= {"peer_digest": reader.digest, "peer_description": reader.description}
    metrics |= fluency.measure_overlap(texts, corpus)
    how |= {"reader": reader.name, "temperatures": temperature.measure(writer, corpus, reader)}
    return Evaluation(cards.rounded(metrics), how, None, tuple(texts))


def load_peer(folder: str, corpus: Corpus) -> Writer:
    """The language model that another one is measured beside.

    Raises:
        TrainingError: it can't be loaded, or was trained on other data.
    """
    peer = load_writer(Path(folder))
    if peer.training_data != corpus.card():
        raise TrainingError(f"{folder}: was trained on other data, or on another split of them")
    return peer


def write_evaluation(folder: Path, config: ModelConfig, found: Evaluation) -> ModelConfig:
    """Write an evaluation into a weights folder: the card, README.md and samples.png; returns the new configuration."""
    config = with_card(config, {**config.card, "metrics": found.metrics, "evaluation": found.how})
    config = replace(config, config={**config.config, **found.chosen})
    if found.samples is not None:
        write_grid(folder / "samples.png", found.samples, quality.COLUMNS)
    if found.traversal is not None:
        write_grid(folder / control_card.GRID_FILE, found.traversal, codes.STEPS)
    if found.clips:
        audio_card.write_samples(folder, found.clips)
        config = replace(config, output={**config.output, "temperature": found.how["temperature"]})
    if found.texts:
        write_atomically(folder / text_card.SAMPLES_FILE, text_card.all_samples(found.texts).encode())
    write_atomically(folder / "README.md", cards.render(folder.name, config, found.texts).encode())
    write_config(folder, config)
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
    parser.add_argument("--judge", type=Path, help="the judge's folder (default: the committed one for the data)")
    parser.add_argument("--data", help="folder of the data (default: where the Debian package puts it)")
    parser.add_argument("--count", type=int, default=COUNT, help="generated pictures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the latents (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--run", type=Path, help="folder of the run, for the training curves (default: runs/RECIPE)")
    parser.add_argument(
        "--describe",
        action="append",
        default=[],
        metavar="CONTROL=TEXT",
        help="what a control does, for the card, once its traversal was looked at (any number of times)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the table, leave the weights folder alone")
    wanted.add_flags(parser)
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.threads is not None and options.threads < 1:
        raise TrainingError(f"--threads {options.threads}: at least 1")
    if options.threads:
        torch.set_num_threads(options.threads)
    asked = wanted.read(options)
    folder = find_folder(options.name)
    loaded = checkpoint.load(folder, networks())
    config = control_card.described(loaded.config, options.describe)
    found = _measure(folder, loaded, options, extras(asked))
    card = {**loaded.config.card, "metrics": found.metrics, "evaluation": found.how}
    print(cards.table(loaded.name, card))
    if not options.dry_run:
        write_evaluation(folder, config, found)
    history = read_history(options.run or Path("runs") / str(card.get("recipe", loaded.name)).partition(".toml")[0])
    write_report(report_of(loaded.name, loaded.config.labels, card, found, history), asked)
    if missed := cards.missed_gates(card):
        raise TrainingError(f"{loaded.name}: gates missed: {'; '.join(missed)}")
    return 0


def extras(asked: Wanted) -> Extras:
    """The extras that the command line asks for.

    Raises:
        TrainingError: the Inception network can't be loaded.
    """
    return Extras(asked.truncations, Inception(asked.inception) if asked.inception else None)


def report_of(
    name: str,
    labels: Sequence[str],
    card: Mapping[str, Any],
    found: Evaluation,
    history: History = MappingProxyType({}),
) -> Report:
    """An evaluation as a report shows it."""
    return Report(
        name=name,
        description=card.get("description", ""),
        how=found.how,
        metrics=found.metrics,
        gates=card.get("gates", {}),
        labels=tuple(labels),
        samples=found.samples,
        texts=found.texts,
        measurement=found.measurement,
        curve=found.curve,
        history=history,
    )


def _measure(folder: Path, loaded: Checkpoint, options: argparse.Namespace, more: Extras) -> Evaluation:
    if isinstance(loaded.model, WaveNet):
        return evaluate_speech(loaded, load_same_speech(loaded.name, loaded.config.card, options.data))
    if isinstance(loaded.model, VQVAE | TextToImage):
        return _measure_captioned(loaded, options, more)
    pictures = loaded.config.tokenizer is None and loaded.config.architecture not in JUDGES
    if more != NOTHING and not pictures:
        raise TrainingError(f"{loaded.name} makes no pictures: --truncations and --inception have no meaning for it")
    if loaded.config.tokenizer is not None:
        how = loaded.config.card.get("evaluation", {})
        beside = how.get("peer", ""), how.get("origin", "")
        return evaluate_writer(as_writer(folder, loaded), corpus_of(loaded, options.data), *beside)
    dataset = dataset_of(loaded, options.data)
    judge = load_judge(options.judge or judge_folder(dataset.name)) if pictures else None
    if judge is not None:
        check_impartial(loaded.name, loaded.config.card, judge)
    return evaluate(loaded, dataset, judge, count=options.count, seed=options.seed, extras=more)


def _measure_captioned(loaded: Checkpoint, options: argparse.Namespace, more: Extras) -> Evaluation:
    if more != NOTHING:
        raise TrainingError(f"{loaded.name} draws codes: --truncations and --inception have no meaning for it")
    dataset = same_data(loaded.name, loaded.config.card, options.data)
    if isinstance(loaded.model, VQVAE):
        return evaluate_vq(loaded, dataset)
    decoder = load_decoder(find_folder(loaded.config.output["decoder"]), dataset)
    judge = load_judge(options.judge or judge_folder(captioned.NAME))
    scales = [point["guidance"] for point in loaded.config.card["evaluation"]["curve"]]
    return evaluate_text_to_image(loaded, decoder, dataset, judge, scales)


def find_folder(name: str) -> Path:
    """The folder that a name stands for.

    Raises:
        TrainingError: there is none.
    """
    places = [Path("weights") / name, Path("training/judges") / name, Path(name)]
    for place in places:
        if (place / CONFIG_FILE).is_file():
            return place
    raise TrainingError(f"{name}: no weights folder (looked for {', '.join(str(p / CONFIG_FILE) for p in places)})")


def dataset_of(loaded: Checkpoint, path: str | None) -> Dataset:
    """The data that the card of a model names, checked against the sha256 given there.

    Raises:
        TrainingError: the card names no data, the place is not known, or the data are others.
    """
    return dataset_named(loaded.name, loaded.config.card, loaded.config.labels, path)


def dataset_named(name: str, card: Mapping[str, Any], labels: Sequence[str], path: str | None) -> Dataset:
    """The same for the card of a model that is somewhere else.

    Raises:
        TrainingError: as above.
    """
    named, place = _training_data(name, card, path, DEFAULT_PATHS, ("name", "license", "sha256"))
    labels = named.get("labels", labels)  # where the model's own are others than those of its data
    dataset = load_dataset(DataRecipe(named["name"], place, named["license"], tuple(labels)))
    if dict(dataset.sha256) != named["sha256"]:
        raise TrainingError(f"{place}: not the data that {name} was trained on (sha256 differ)")
    return dataset


def corpus_of(loaded: Checkpoint, path: str | None) -> Corpus:
    """The texts that the card of a language model names, split as it says.

    Raises:
        TrainingError: the card names no data, the place is not known, or the data are others.
    """
    keys = ("name", "license", "files", "validation", "held_out", "sha256")
    named, place = _training_data(loaded.name, loaded.config.card, path, text.DEFAULT_PATHS, keys)
    network = fluency.sequence_model(loaded.model)
    recipe = TextRecipe(
        "text",
        named["name"],
        place,
        named["license"],
        named["files"],
        tuple(named["validation"]),
        tuple(named["held_out"]),
        "bytes",  # whatever its tokens are: the texts are wanted alone
        network.vocab_size,
        network.max_length,
    )
    corpus = text.load_corpus(recipe)
    if corpus.card() != named:
        raise TrainingError(f"{place}: not the data that {loaded.name} was trained on (sha256 differ)")
    return corpus


def _training_data(
    name: str, card: Mapping[str, Any], path: str | None, places: Mapping[str, str], keys: tuple[str, ...]
) -> tuple[Mapping[str, Any], str]:
    """What the card says about the data, and where they are."""
    named = card.get("training_data")
    if not isinstance(named, Mapping) or not set(keys) <= named.keys():
        raise TrainingError(f"{name}: its card does not name its training data, so there is nothing to measure against")
    place = path or places.get(named["name"])
    if place is None:
        raise TrainingError(f"{name}: say with --data where {named['name']} is")
    return named, place


if __name__ == "__main__":
    sys.exit(main())
