"""The animal silhouettes of the PyPI package `animal_mnist`: ten kinds of animals, white on black, 28x28.

Knows the package's two files, which picture counts and on which side of the split it stands; knows nothing of networks.
The files are gzipped pickles of plain arrays. They are never unpickled and no code of the package is run: the stream of
opcodes is walked without executing any, and the one long byte string in it, the array's memory, is taken out.
"""

import gzip
import hashlib
import pickletools
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from training.errors import TrainingError

Array = np.ndarray[Any, np.dtype[np.uint8]]

FILES = ("animal_data_version_3.gz", "animal_label_version_3.gz")
SIDE = 28
TEST_PER_CLASS = 150


def read_animals(folder: Path, contents: Mapping[str, bytes]) -> tuple[Array, Array, Array, Array]:
    """Training pictures [N, 28, 28] and labels [N], then those of the test split, 150 of each class.

    Pictures lie in the order of the sha256 of their grey levels and the first of each class are held out, so that the
    split depends on nothing but what the pictures show, and no picture stands on both sides of it.

    Args:
        folder: named in errors.
        contents: of the package's two files.

    Raises:
        TrainingError: a file holds no such array, the two do not fit, or a class is too small for the split.
    """
    pictures = _pictures(folder / FILES[0], contents[FILES[0]])
    labels = _labels(folder / FILES[1], contents[FILES[1]])
    if len(pictures) != len(labels):
        raise TrainingError(f"{folder}: {len(pictures)} pictures do not fit {len(labels)} labels")
    kept = distinct(pictures, labels)
    pictures, labels = pictures[kept], labels[kept]
    held_out = _held_out(folder, labels)
    return pictures[~held_out], labels[~held_out], pictures[held_out], labels[held_out]


def _pictures(path: Path, content: bytes) -> Array:
    memory = array_memory(path, content)
    if len(memory) % SIDE**2:
        raise TrainingError(f"{path}: {len(memory)} bytes are no whole number of {SIDE}x{SIDE} pictures")
    return np.frombuffer(memory, np.uint8).reshape(-1, SIDE, SIDE)


def _labels(path: Path, content: bytes) -> Array:
    memory = array_memory(path, content)
    if len(memory) % 8:
        raise TrainingError(f"{path}: {len(memory)} bytes are no whole number of 64-bit labels")
    labels = np.frombuffer(memory, "<i8")
    if len(labels) and not 0 <= labels.min() <= labels.max() < 256:
        raise TrainingError(f"{path}: labels from {labels.min()} to {labels.max()} found, 0 to 255 are possible")
    return labels.astype(np.uint8)


def array_memory(path: Path, content: bytes) -> bytes:
    """The bytes of the one array in a gzipped pickle, which is read as a list of opcodes and never executed.

    Raises:
        TrainingError: it is not gzip, not a pickle, or holds no array or several.
    """
    try:
        opcodes = pickletools.genops(gzip.decompress(content))
        found = [bytes(argument) for opcode, argument, _ in opcodes if opcode.name == "BINBYTES" and argument]
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise TrainingError(f"{path}: not a gzipped pickle: {error}") from error
    if len(found) != 1:
        raise TrainingError(f"{path}: {len(found)} arrays found where there should be one")
    return found[0]


def distinct(pictures: Array, labels: Array) -> list[int]:
    """One number of each different picture, in the order of their sha256.

    A picture that stands under two labels is left out altogether: nothing says which is right.
    """
    same: dict[bytes, list[int]] = {}
    for number, picture in enumerate(pictures):
        same.setdefault(hashlib.sha256(picture.tobytes()).digest(), []).append(number)
    return [numbers[0] for _, numbers in sorted(same.items()) if len(np.unique(labels[numbers])) == 1]


def _held_out(folder: Path, labels: Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which pictures are for testing: the first of each class."""
    held_out = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) <= TEST_PER_CLASS:
            raise TrainingError(
                f"{folder}: {len(members)} different pictures of label {label}, of which {TEST_PER_CLASS} are for "
                "testing: too few"
            )
        held_out[members[:TEST_PER_CLASS]] = True
    return held_out
