"""What a running service makes of first seeds, none left out: the pictures, texts and sounds of the gallery.

Every file is one answer of the service as it came, and its request is kept beside it; a spectrogram is drawn of each
sound.
"""

import dataclasses
import io
import json
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from models.files import write_atomically
from training.catalogue import CAPTIONED, CODES, PICTURES, SPEECH, TEXT, Generator
from training.client import Client
from training.errors import TrainingError
from training.spectrum import magnitudes

INDEX_FILE = "index.json"
SHEET, SCALE = 16, 3  # pictures on a sheet, and pixels of each of theirs
TEXTS, TOKENS, TEMPERATURE = 3, 120, 0.8
# The first two combinations are held out by training/recipes/emoji-dalle.toml.
CAPTIONS = (
    "a large white horse on a red background",
    "a small red dog on an orange background",
    "rainbow, google style",
    "camera, twitter style",
)
SAID = ("please hold the line", "you have new messages", "good morning")
HOP, FAINT, ZOOM = 32, 1e-3, 2  # samples a column of a spectrogram; what is black, of the loudest; pixels a value


@dataclass(frozen=True)
class Exhibit:
    """One answer.

    Attributes:
        path: of the route.
        body: of the request.
        file: the answer, in the folder of the gallery; "" for texts.
        picture: the spectrogram of a sound; "" for what is none.
        texts: of the answer, without their prompt.
    """

    path: str
    body: Mapping[str, Any]
    file: str = ""
    picture: str = ""
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exhibits:
    """All of one generator, made by weights of this digest on this runtime."""

    digest: str
    runtime: str
    shown: tuple[Exhibit, ...]


def requests(generator: Generator) -> list[tuple[str, str, dict[str, Any]]]:
    """Route, wanted media type and body of each request; none for what makes nothing by itself."""
    model = {"model": generator.name}
    sheet = {"seed": 0, "scale": SCALE}
    made: Mapping[str, list[tuple[str, str, dict[str, Any]]]] = {
        PICTURES: [("/v1/images/generate", "image/png", model | sheet | {"n": SHEET})],
        CAPTIONED: [
            ("/v1/images/generate", "image/png", model | sheet | {"n": SHEET // 2, "prompt": caption})
            for caption in CAPTIONS
        ],
        SPEECH: [("/v1/audio/generate", "audio/wav", model | {"seed": 0, "prompt": said}) for said in SAID],
        TEXT: [
            (
                "/v1/text/complete",
                "application/json",
                model | {"seed": 0, "n": TEXTS, "max_tokens": TOKENS, "temperature": TEMPERATURE},
            )
        ],
        CODES: [],
    }
    return made[generator.makes]


def fetch(url: str, generator: Generator, folder: Path) -> Exhibits:
    """Ask a running service for a generator's exhibits and write their files.

    Raises:
        TrainingError: the service refuses, fails, or serves other weights under this name.
    """
    client, shown, runtimes = Client(url, generator.name), [], set[str]()
    for number, (path, accept, body) in enumerate(requests(generator)):
        headers, content = client.ask("POST", path, body, accept)
        if headers.get("x-genserve-model") != generator.identity:
            raise TrainingError(f"{generator.identity} was asked, {headers.get('x-genserve-model')} answered")
        runtimes.add(headers.get("x-genserve-runtime", "unknown"))
        shown.append(_keep(Exhibit(path, body), f"{generator.name}-{number}", accept, content, folder))
    return Exhibits(generator.config.digest, ", ".join(sorted(runtimes)), tuple(shown))


def _keep(exhibit: Exhibit, stem: str, accept: str, content: bytes, folder: Path) -> Exhibit:
    """The same with its answer, of this media type, written down."""
    if accept == "application/json":
        texts = tuple(str(choice["text"]) for choice in json.loads(content)["choices"])
        return dataclasses.replace(exhibit, texts=texts)
    name = f"{stem}.{accept.partition('/')[2]}"
    write_atomically(folder / name, content)
    if accept != "audio/wav":
        return dataclasses.replace(exhibit, file=name)
    write_atomically(folder / f"{stem}.png", spectrogram(content))
    return dataclasses.replace(exhibit, file=name, picture=f"{stem}.png")


def spectrogram(content: bytes) -> bytes:
    """A WAV file's short-time Fourier transform as a PNG: time to the right, low below, loud is light (60 dB)."""
    with wave.open(io.BytesIO(content)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 2**15
    found = magnitudes(samples.astype(np.float64), HOP).T[::-1]
    levels = np.log(np.maximum(found / max(found.max(), 1e-12), FAINT)) / -np.log(FAINT) + 1
    picture = (levels * 255).round().astype(np.uint8).repeat(ZOOM, axis=0)
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG", optimize=True)
    return out.getvalue()


def write_index(folder: Path, found: Mapping[str, Exhibits]) -> None:
    """Write what is shown of each generator."""
    raw = {name: dataclasses.asdict(one) for name, one in found.items()}
    write_atomically(folder / INDEX_FILE, (json.dumps(raw, indent=1) + "\n").encode())


def read_index(folder: Path) -> dict[str, Exhibits]:
    """What `write_index` has written; nothing when it never did.

    Raises:
        TrainingError: the file is another one.
    """
    path = folder / INDEX_FILE
    if not path.is_file():
        return {}
    try:
        raw = json.loads(path.read_text())
        return {
            name: Exhibits(one["digest"], one["runtime"], tuple(_exhibit(shown) for shown in one["shown"]))
            for name, one in raw.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{path}: not what training.gallery writes ({error!r})") from None


def _exhibit(raw: Mapping[str, Any]) -> Exhibit:
    return Exhibit(**{**raw, "texts": tuple(raw["texts"])})
