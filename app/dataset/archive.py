"""The service's ZIP answer as pictures: taken apart and checked, file by file."""

import io
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from app.dataset.plan import Part

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's, by number of channels


def unpack(content: bytes, part: Part) -> list[bytes]:
    """The PNG files of a part, in the order of their seeds.

    Raises:
        ValueError: it is no archive of these seeds, or is damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as bundle:
            entries = bundle.infolist()
            # Stored, not deflated: a picture can't be larger than the answer.
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            if not stored or len(entries) != part.count:
                raise ValueError(f"not an archive of {part.count} pictures")
            named = [e.filename.endswith(f"-seed-{seed}.png") for e, seed in zip(entries, part.seeds, strict=True)]
            if not all(named):
                raise ValueError(f"not the pictures of seeds {part.seeds[0]} to {part.seeds[-1]}")
            return [bundle.read(entry) for entry in entries]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"not a readable archive: {error}") from error


def pixels(files: Sequence[bytes], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """PNG files as one array [n, H, W, C].

    Raises:
        ValueError: a file is no picture of this shape.
    """
    return np.stack([_picture(file, shape) for file in files])


def _picture(file: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    height, width, channels = shape
    try:
        with Image.open(io.BytesIO(file), formats=["png"]) as image:
            if (image.size, image.mode) != ((width, height), MODES.get(channels)):  # before anything is decoded
                raise ValueError(f"a picture of {image.size}, {image.mode}, where {width} x {height} is promised")
            return np.asarray(image, np.uint8).reshape(shape)
    except (UnidentifiedImageError, OSError, SyntaxError, zlib.error) as error:
        raise ValueError(f"not a readable picture: {error}") from error
