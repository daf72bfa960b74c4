"""Pictures with labels from files, and the loader that deals them out in shuffled batches.

Knows files, bytes and where data sets come from; knows nothing of networks. Pictures stay uint8 until they are dealt,
on the device that trains.
"""

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from training import animals, scenes
from training.data_recipe import DataRecipe
from training.errors import TrainingError

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
Array = np.ndarray[Any, np.dtype[np.uint8]]


class Batch(NamedTuple):
    """Pictures [N, C, H, W] in [-1, 1], float32, and labels [N], int64; of texts, tokens and next tokens, [N, T]."""

    samples: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Split:
    """Pictures [N, 1, H, W] uint8 and labels [N] int64."""

    pictures: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.labels)

    def shuffled(self, seed: int = 0) -> "Split":
        """The same in another order, so that the first of them are a sample of all."""
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(self)))
        return Split(self.pictures[order], self.labels[order])

    def batch(self, index: Tensor) -> Batch:
        """The pictures with these indices [N], as a network reads them."""
        return Batch(to_samples(self.pictures[index]), self.labels[index])

    @property
    def device(self) -> torch.device:
        """Where the pictures lie."""
        return self.labels.device

    def half(self, which: Literal["both", "even", "odd"]) -> "Split":
        """The pictures of even or of odd number, or all."""
        if which == "both":
            return self
        first = 0 if which == "even" else 1
        return Split(self.pictures[first::2], self.labels[first::2])

    def to(self, device: torch.device) -> "Split":
        """The same split on another device."""
        return Split(self.pictures.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """Training and test split with what a model card says about them."""

    name: str
    license: str
    labels: tuple[str, ...]
    sha256: Mapping[str, str]
    train: Split
    test: Split

    def card(self) -> dict[str, Any]:
        """What the model card says about the data."""
        return {"name": self.name, "license": self.license, "sha256": dict(self.sha256)}


def to_samples(pictures: Tensor) -> Tensor:
    """Grey levels 0..255 to [-1, 1]."""
    return pictures.float() / 127.5 - 1


@dataclass(frozen=True)
class Source:
    """How a data set lies on disk.

    Attributes:
        files: in one folder.
        read: from that folder (for errors) and the files' contents to training pictures [N, H, W], training labels
            [N], test pictures and test labels.
        sha256: of the published files; empty when they are the user's own.
        path: where they lie unless a recipe or an option says otherwise.
        hint: how to get them.
    """

    files: tuple[str, ...]
    read: Callable[[Path, Mapping[str, bytes]], tuple[Array, Array, Array, Array]]
    sha256: Mapping[str, str]
    path: str
    hint: str


def load_dataset(recipe: DataRecipe) -> Dataset:
    """Read the files of a folder.

    A data set whose name is known is read in its own format and checked against its published files; any other name
    takes a folder of the user's own with four IDX files.

    Raises:
        TrainingError: a file is missing, differs from the published one, is not of its format, or does not fit the
            others.
    """
    folder, source = Path(recipe.path), SOURCES.get(recipe.name, OWN)
    contents = {name: _read_file(folder / name, source) for name in source.files}
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    for name, expected in source.sha256.items():
        if sha256[name] != expected:
            raise TrainingError(
                f"{folder / name}: sha256 is {sha256[name][:16]}..., the published {recipe.name} has "
                f"{expected[:16]}...; give data of your own another data.name"
            )
    arrays = source.read(folder, contents)
    train, test = (_split(folder, arrays[i], arrays[i + 1], len(recipe.labels)) for i in (0, 2))
    if source is OWN:  # whose pictures may come class by class, where the first thousand stand for all
        test = test.shuffled()
    if train.pictures.shape[1:] != test.pictures.shape[1:]:
        raise TrainingError(f"{folder}: training and test pictures differ in size")
    return Dataset(recipe.name, recipe.license, recipe.labels, sha256, train, test)


def _read_file(path: Path, source: Source) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        hint = f"{source.hint}, or set" if source.hint else "set"
        wanted = ", ".join(source.files)
        raise TrainingError(f"{path}: missing; {hint} data.path to a folder that holds {wanted}") from None
    except OSError as error:
        raise TrainingError(f"{path}: unreadable: {error}") from error


def read_idx(folder: Path, contents: Mapping[str, bytes]) -> tuple[Array, Array, Array, Array]:
    """The four arrays of a folder of IDX files.

    Raises:
        TrainingError: a file is not gzipped IDX of unsigned bytes.
    """
    train, train_labels, test, test_labels = (parse_idx(folder / name, contents[name]) for name in FILES)
    return train, train_labels, test, test_labels


def parse_idx(path: Path, content: bytes) -> Array:
    """Unpack one gzipped IDX file of unsigned bytes into an array of the dimensions that it declares.

    Raises:
        TrainingError: it is not gzip, not IDX of unsigned bytes, or shorter or longer than its header says.
    """
    try:
        raw = gzip.decompress(content)
        zeros, kind, rank = struct.unpack_from(">HBB", raw)
        shape = struct.unpack_from(f">{rank}I", raw, 4)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise TrainingError(f"{path}: not a gzipped IDX file: {error}") from error
    if zeros or kind != 8:
        raise TrainingError(f"{path}: not IDX of unsigned bytes (type {kind:#04x})")
    offset = 4 + 4 * rank
    if len(raw) - offset != math.prod(shape):
        raise TrainingError(f"{path}: {len(raw) - offset} bytes of data where the header says {list(shape)}")
    return np.frombuffer(raw, np.uint8, offset=offset).reshape(shape)


def _split(folder: Path, pictures: Array, labels: Array, classes: int) -> Split:
    if pictures.ndim != 3 or labels.ndim != 1 or len(pictures) != len(labels) or not len(labels):
        raise TrainingError(f"{folder}: {pictures.shape} pictures do not fit {labels.shape} labels")
    if int(labels.max()) >= classes:
        raise TrainingError(f"{folder}: label {int(labels.max())} found, data.labels names {classes}")
    return Split(torch.from_numpy(pictures.copy()).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))


OWN = Source(FILES, read_idx, {}, "", "")
ANIMAL_MNIST = {
    "animal_data_version_3.gz": "68a30346781a0984f839463a4615d2decb899d1ce65091bb92586311754a34ce",
    "animal_label_version_3.gz": "dec8dba7c469830989fbab46825021a08a38470753a512f27ada847eced97b57",
}
ANIMAL_FOLDER = "data/animal_mnist/data/Animal_MNIST"
ANIMAL_HINT = "get them with `pip install --no-deps --target data animal_mnist==0.4`"
SOURCES = {
    "fashion-mnist": Source(
        FILES,
        read_idx,
        {
            "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
            "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
            "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
            "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
        },
        "/usr/share/datasets/fashion-mnist",
        "install the Debian package dataset-fashion-mnist",
    ),
    "animal-mnist": Source(
        animals.FILES,
        animals.read_animals,
        ANIMAL_MNIST,
        ANIMAL_FOLDER,
        ANIMAL_HINT,
    ),
    "animal-shapes": Source(animals.FILES, scenes.read_shapes, ANIMAL_MNIST, ANIMAL_FOLDER, ANIMAL_HINT),
}
DEFAULT_PATHS = {name: source.path for name, source in SOURCES.items()}


class Dealt(Protocol):
    """What the loader deals from: so many examples, and the batch of those with given indices."""

    @property
    def device(self) -> torch.device:
        """Where the examples lie."""
        ...

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def batch(self, index: Tensor) -> Batch:
        """The examples with these indices [N]."""
        ...


class Loader:
    """Deals a split in shuffled batches for ever; its whole state is two numbers.

    The order of an epoch is drawn from (seed, epoch) alone, so that a resumed run deals exactly the batches that the
    unbroken run would have dealt. The last, incomplete batch of an epoch is left out.
    """

    def __init__(self, split: Dealt, batch_size: int, seed: int) -> None:
        """Start before the first batch of epoch 0.

        Raises:
            TrainingError: the split is smaller than one batch.
        """
        if batch_size > len(split):
            raise TrainingError(f"batch_size {batch_size} is more than the {len(split)} training examples")
        self._split, self._batch_size, self._seed = split, batch_size, seed
        self._epoch = self._position = 0
        self._order = self._shuffle()

    def _shuffle(self) -> Tensor:
        order = np.random.default_rng([self._seed, self._epoch]).permutation(len(self._split))
        return torch.from_numpy(order).to(self._split.device)

    def next(self) -> Batch:
        """The next batch."""
        if self._position + self._batch_size > len(self._split):
            self.skip_epoch()
        index = self._order[self._position : self._position + self._batch_size]
        self._position += self._batch_size
        return self._split.batch(index)

    def skip_epoch(self) -> None:
        """Go to the first batch of the next epoch."""
        self._epoch, self._position = self._epoch + 1, 0
        self._order = self._shuffle()

    def state_dict(self) -> dict[str, int]:
        """Epoch and position in it."""
        return {"epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go back (or forward) to a saved place."""
        self._epoch, self._position = state["epoch"], state["position"]
        self._order = self._shuffle()
