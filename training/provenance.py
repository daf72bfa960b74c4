"""The data that a model's card names, read again and checked: what a model is measured against.

Knows cards and data sets; knows nothing of networks but what a language model's windows are.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any

from models.checkpoint import Checkpoint
from training import captioned, data, fluency, speech, text
from training.captioned import CaptionedDataset, load_captioned
from training.data import Dataset, load_dataset
from training.data_recipe import CaptionedRecipe, DataRecipe, SpeechRecipe, TextRecipe
from training.errors import TrainingError
from training.speech import SpeechDataset, load_speech_dataset
from training.text import Corpus, load_corpus


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
    named = _named(name, card, ("name", "license", "sha256"))
    place = _place(name, named, path, data.DEFAULT_PATHS)
    labels = named.get("labels", labels)  # where the model's own are others than those of its data
    dataset = load_dataset(DataRecipe(named["name"], place, named["license"], tuple(labels)))
    _check_same(name, place, dict(dataset.sha256), named["sha256"])
    return dataset


def corpus_of(loaded: Checkpoint, path: str | None) -> Corpus:
    """The texts that the card of a language model names, split as it says.

    Raises:
        TrainingError: the card names no data, the place is not known, or the data are others.
    """
    named = _named(loaded.name, loaded.config.card, ("name", "license", "files", "validation", "held_out", "sha256"))
    place = _place(loaded.name, named, path, text.DEFAULT_PATHS)
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
    corpus = load_corpus(recipe)
    _check_same(loaded.name, place, corpus.card(), named)
    return corpus


def captioned_named(name: str, card: Mapping[str, Any], folder: str | None) -> CaptionedDataset:
    """The examples that the card of a model names, made anew of the same files.

    Args:
        name: of the model.
        card: of the model.
        folder: with the archives of emoji; where they lie unless a recipe says otherwise, when not given.

    Raises:
        TrainingError: the card names no such data, or the files are others.
    """
    making = ("name", "license", *captioned.MAKING)
    named = _named(name, card, (*making, "sha256"))
    places: dict[str, Any] = {**captioned.DEFAULT_PATHS, **({"emoji": folder} if folder else {})}
    recipe = CaptionedRecipe(kind="captioned", **places, **{key: named[key] for key in making})
    dataset = load_captioned(recipe)
    _check_same(name, ", ".join(places.values()), dict(dataset.sha256), named["sha256"])
    return dataset


def speech_named(name: str, card: Mapping[str, Any], path: str | None) -> SpeechDataset:
    """The recordings that the card of a model names, split as it says.

    Raises:
        TrainingError: the card names no recordings, the place is not known, or the recordings are others.
    """
    keys = {entry.name for entry in fields(SpeechRecipe)} - {"kind", "path"}
    named = _named(name, card, {*keys, "sha256"})
    place = _place(name, named, path, speech.DEFAULT_PATHS)
    dataset = load_speech_dataset(SpeechRecipe(kind="speech", path=place, **{key: named[key] for key in keys}))
    _check_same(name, place, dataset.card(), dict(named))
    return dataset


def _named(name: str, card: Mapping[str, Any], keys: Collection[str]) -> Mapping[str, Any]:
    """What the card says about the data."""
    named = card.get("training_data")
    if not isinstance(named, Mapping) or not set(keys) <= named.keys():
        raise TrainingError(f"{name}: its card does not name its training data, so there is nothing to measure against")
    return named


def _place(name: str, named: Mapping[str, Any], path: str | None, places: Mapping[str, str]) -> str:
    """Where the data are."""
    place = path or places.get(named["name"])
    if place is None:
        raise TrainingError(f"{name}: say with --data where {named['name']} is")
    return place


def _check_same(name: str, place: str, found: object, named: object) -> None:
    if found != named:
        raise TrainingError(f"{place}: not the data that {name} was trained on (sha256 differ)")
