"""Emoji of two sets, and what they are called, from three archives of the package registry of Node.js.

Knows the archives' insides; knows nothing of networks. They are read where they lie: nothing is unpacked, and nothing
in them is run.
"""

import io
import json
import re
import tarfile
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from training.errors import TrainingError

SIDE = 32
STYLES: Mapping[str, str] = {
    "google": "emoji-datasource-google-16.0.0.tgz",
    "twitter": "emoji-datasource-twitter-16.0.0.tgz",
}
KEYWORDS = "emojilib-4.0.3.tgz"
KEYWORDS_INSIDE = "package/dist/emoji-en-US.json"
NAMES_INSIDE = "package/emoji.json"
FILES = (*STYLES.values(), KEYWORDS)
HINT = (
    "get them with `npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 emojilib@4.0.3` in that "
    "folder"
)
MAX_BYTES = 1 << 22  # of a file inside that is read; the largest has 1.3 MB
WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Emoji:
    """One emoji: its name and its keywords, in lower case and plain letters."""

    name: str
    keywords: tuple[str, ...]


@dataclass(frozen=True)
class EmojiSet:
    """Emoji that stand in every style.

    Attributes:
        pictures: on white, [styles, N, 3, SIDE, SIDE] uint8, in the order of `STYLES`.
        emoji: what they show, N.
    """

    pictures: Tensor
    emoji: tuple[Emoji, ...]


def read_emoji(folder: Path, contents: Mapping[str, bytes]) -> EmojiSet:
    """Pictures and names from the three archives.

    Args:
        folder: named in errors.
        contents: of the archives, by name.

    Raises:
        TrainingError: an archive is none, lacks a file, or a file in it is not what it should be.
    """
    inside = {
        file: _insides(folder / file, contents[file], {NAMES_INSIDE}, f"package/img/{style}/64/")
        for style, file in STYLES.items()
    }
    first = next(iter(STYLES.values()))
    entries = _json(folder / first, inside[first], NAMES_INSIDE)
    lists = _json(
        folder / KEYWORDS, _insides(folder / KEYWORDS, contents[KEYWORDS], {KEYWORDS_INSIDE}), KEYWORDS_INSIDE
    )
    try:
        kept = [entry for entry in entries if all(entry[f"has_img_{style}"] for style in STYLES)]
        emoji = tuple(Emoji(plain(entry["name"]), _keywords(entry["unified"], lists)) for entry in kept)
        images = [entry["image"] for entry in kept]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TrainingError(f"{folder / first}: {NAMES_INSIDE} is not the list of emoji: {error!r}") from error
    styles = [_pictures(folder / file, inside[file], style, images) for style, file in STYLES.items()]
    return EmojiSet(torch.stack(styles), emoji)


def plain(text: str) -> str:
    """Lower case, without accents."""
    return "".join(c for c in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(c))


def _keywords(unified: str, keywords: Mapping[str, list[str]]) -> tuple[str, ...]:
    """What else is said of an emoji; some are spelt with or without the sign that asks for a picture."""
    sign = "".join(chr(int(code, 16)) for code in unified.split("-"))
    found = keywords.get(sign) or keywords.get(sign.replace("\ufe0f", "")) or []
    spelt = (" ".join(WORD.findall(plain(word))) for word in found)
    return tuple(word for word in spelt if word)


def _insides(path: Path, content: bytes, names: set[str], folder: str | None = None) -> dict[str, bytes]:
    """Files of an archive: those of these names and those in a folder, in one pass."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            for member in archive:
                wanted = member.name in names or (folder is not None and member.name.startswith(folder))
                if wanted and member.isfile() and member.size <= MAX_BYTES:
                    file = archive.extractfile(member)
                    assert file is not None  # it is a file
                    found[member.name] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise TrainingError(f"{path}: not a .tgz archive: {error}") from error
    return found


def _json(path: Path, inside: Mapping[str, bytes], name: str) -> Any:
    try:
        return json.loads(inside[name])
    except KeyError:
        raise TrainingError(f"{path}: holds no {name}") from None
    except ValueError as error:
        raise TrainingError(f"{path}: {name} is not JSON: {error}") from error


def _pictures(path: Path, inside: Mapping[str, bytes], style: str, images: Sequence[str]) -> Tensor:
    """Pictures of these names, [N, 3, SIDE, SIDE] uint8."""
    found = []
    for image in images:
        name = f"package/img/{style}/64/{image}"
        try:
            found.append(_picture(inside[name]))
        except KeyError:
            raise TrainingError(f"{path}: holds no {name}") from None
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise TrainingError(f"{path}: {name} is not a picture: {error}") from error
    return torch.stack(found)


def _picture(data: bytes) -> Tensor:
    """A PNG on white at SIDE pixels, [3, SIDE, SIDE] uint8."""
    with Image.open(io.BytesIO(data)) as image:
        drawn = image.convert("RGBA")
    white = Image.new("RGBA", drawn.size, "white")
    small = Image.alpha_composite(white, drawn).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)
