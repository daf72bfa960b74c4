"""Tiny silhouettes and tiny sets of emoji on disk, as the published files have them, and recipes for them."""

import gzip
import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training import data, emoji
from training.captioned import ANIMALS

EACH, TESTED = 4, 2  # silhouettes of an animal
NAMES = {"1F600": "GRINNING FACE", "1F43B": "BEAR FACE", "2764-FE0F": "HEAVY RED HEART"}
KEYWORDS = {"😀": ["grinning_face", "happy", "face"], "🐻": ["bear", "animal"], "❤": ["love", "red heart", "happy"]}
WORDS = 36  # of the tokenizer, padding and the unknown word included
CODES, LENGTH, PLACES = 16, 12, 64


def silhouettes(each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """White blocks, whose place and size tell the animal, [N, 12, 12], and labels."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(ANIMALS)), each)
    pictures = np.zeros((len(labels), 12, 12), np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        top, left = random.integers(0, 2, 2)
        picture[top : top + 3 + label % 5, left : left + 3 + 7 * (label // 5)] = 255
    return pictures, labels


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


def png(colour: tuple[int, int, int], alpha: int = 255) -> bytes:
    """A disc of a colour on nothing, 64x64."""
    rows, columns = np.mgrid[:64, :64] - 32
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[rows**2 + columns**2 < 600] = (*colour, alpha)
    buffer = io.BytesIO()
    Image.fromarray(picture, "RGBA").save(buffer, "PNG")
    return buffer.getvalue()


def archive(files: dict[str, bytes]) -> bytes:
    """A .tgz of these files."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as into:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            into.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def entries() -> list[dict[str, Any]]:
    """What emoji.json says; the last one has no picture in one of the styles."""
    found = [
        {"name": name, "unified": code, "image": f"{code.lower()}.png", "has_img_google": True, "has_img_twitter": True}
        for code, name in NAMES.items()
    ]
    return [*found, {**found[0], "name": "ODD ONE", "image": "odd.png", "has_img_twitter": False}]


def archives() -> dict[str, bytes]:
    """The three archives by name."""
    found = {}
    for shade, (style, file) in enumerate(emoji.STYLES.items()):
        pictures = {
            f"package/img/{style}/64/{code.lower()}.png": png((250 - 90 * place, 90 * shade, 80 * place))
            for place, code in enumerate(NAMES)
        }
        found[file] = archive({"package/emoji.json": json.dumps(entries()).encode(), **pictures})
    found[emoji.KEYWORDS] = archive({emoji.KEYWORDS_INSIDE: json.dumps(KEYWORDS).encode()})
    return found


def write(folder: Path) -> None:
    """All files, silhouettes and archives, in one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = (*silhouettes(EACH, 1), *silhouettes(TESTED, 2))
    for name, array in zip(data.FILES, arrays, strict=True):
        (folder / name).write_bytes(idx(array))
    for name, content in archives().items():
        (folder / name).write_bytes(content)


def table(folder: Path) -> dict[str, Any]:
    """The recipe's table of data."""
    return {
        "kind": "captioned",
        "name": "shapes",
        "license": "MIT",
        "animals": str(folder),
        "emoji": str(folder),
        "held_out": 0.2,
        "seed": 3,
        "scenes": 60,
        "emoji_captions": 4,
        "rarest": 2,
        "first_word": CODES,
        "caption_length": LENGTH,
    }


VQ = {
    "architecture": "vq-vae",
    "config": {"num_codes": CODES, "code_dim": 4, "channels": [8, 8, 8], "hidden": 8, "blocks": 1},
}
TEXT_TO_IMAGE = {
    "architecture": "text-to-image",
    "config": {
        "vocab_size": CODES + WORDS,
        "num_codes": CODES,
        "prompt_tokens": LENGTH,
        "max_length": LENGTH + PLACES,
        "width": 16,
        "layers": 1,
        "heads": 2,
    },
}
JUDGE = {"num_classes": len(ANIMALS), "channels": [8, 8], "features": 6, "image_size": 32, "image_channels": 1}
VQ_OBJECTIVE = {
    "kind": "vq",
    "betas": [0.9, 0.99],
    "commitment": 0.25,
    "decay": 0.9,
    "rarest": 0.1,
    "restart_until": 15,
}
TEXT_TO_IMAGE_OBJECTIVE = {
    "kind": "text-to-image",
    "betas": [0.9, 0.95],
    "decoder": "",
    "caption_dropout": 0.1,
    "weight_decay": 0.05,
    "warmup": 4,
    "clip": 1.0,
    "judge": "",
    "guidance": [1.0, 3.0],
    "temperature": [0.5, 1.0],
}
