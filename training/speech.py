"""Recordings of one voice with transcripts: read, checked, trimmed, encoded and split by what is said.

Knows files and codes; knows nothing of networks. All clips with one transcript are in one split: the same words, read
twice, never stand on both sides of a measurement.
"""

import gzip
import hashlib
import re
import wave
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import mu_law
from training import spectrum
from training.data import Batch
from training.data_recipe import SpeechRecipe
from training.errors import TrainingError
from training.text import digest_of

PACKAGES = {"asterisk-core-sounds-en": ("asterisk-core-sounds-en-wav", "asterisk-core-sounds-en")}
DEFAULT_PATHS = {"asterisk-core-sounds-en": "data/asterisk"}
KNOWN_SHA256 = {"asterisk-core-sounds-en": "14e3bcfe486ed1ed105e0fbdff623683c577033a21251831b7d0d65eec1e0ecd"}
REPLACED = {":": ",", ";": ",", '"': "", "...": " "}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SAMPLE_BYTES = 2
LOUD = 0.01  # of full scale: a frame that gets so loud is part of what is said
MARGIN = 0.1  # seconds of silence that are kept on either side


@dataclass(frozen=True, eq=False)
class Clip:
    """One recording.

    Attributes:
        name: of its file, without its ending.
        text: what is said.
        characters: numbers of what it consists of, from 1, [C].
        codes: the samples in mu-law, [frames * hop] uint8.
        hop: samples of a frame.
        rate: samples a second.
    """

    name: str
    text: str
    characters: Tensor
    codes: NDArray[np.uint8]
    hop: int
    rate: int

    @property
    def frames(self) -> int:
        """How many it has."""
        return len(self.codes) // self.hop

    @cached_property
    def targets(self) -> Tensor:
        """The codes as tokens, [samples] int64."""
        return torch.from_numpy(self.codes.astype(np.int64))

    @cached_property
    def inputs(self) -> Tensor:
        """What stands before each of them, [samples]: silence before the first one."""
        return torch.cat([torch.tensor([mu_law.SILENCE]), self.targets[:-1]])

    @cached_property
    def bands(self) -> Tensor:
        """What it sounds like, [frames, spectrum.BANDS]."""
        return torch.from_numpy(spectrum.log_bands(mu_law.decode(self.codes), self.hop, self.rate))


@dataclass(frozen=True)
class Piece:
    """Some frames of a clip, one after another."""

    clip: Clip
    first: int
    frames: int

    @property
    def samples(self) -> slice:
        """Where its samples are in the clip."""
        return slice(self.first * self.clip.hop, (self.first + self.frames) * self.clip.hop)


@dataclass(frozen=True)
class Stream:
    """Clips one after another, and all windows of so many frames over them; window i begins at frame i."""

    clips: tuple[Clip, ...]
    window: int

    def __len__(self) -> int:
        """Number of windows."""
        return max(0, sum(clip.frames for clip in self.clips) - self.window + 1)

    @property
    def device(self) -> torch.device:
        """Where windows are dealt."""
        return torch.device("cpu")

    def batch(self, index: Tensor) -> Batch:
        """The windows with these indices [N], which are all that is known of them here."""
        return Batch(index, index)

    def to(self, _device: torch.device) -> "Stream":
        """The same: clips are moved piece by piece."""
        return self

    def pieces(self, first: int) -> Iterator[Piece]:
        """What lies in a window: pieces of clips."""
        begin, left = first, self.window
        for clip in self.clips:
            if begin < clip.frames and left:
                piece = Piece(clip, begin, min(left, clip.frames - begin))
                left -= piece.frames
                yield piece
            begin = max(0, begin - clip.frames)


@dataclass(frozen=True)
class SpeechDataset:
    """Clips in three splits, with what a model card says about them."""

    recipe: SpeechRecipe
    sha256: str
    train: Stream
    validation: tuple[Clip, ...]
    test: tuple[Clip, ...]

    def card(self) -> dict[str, Any]:
        """What the model card says about the data: enough to split the same files in the same way."""
        said = {name: value for name, value in asdict(self.recipe).items() if name not in ("kind", "path")}
        return {**said, "sha256": {f"{self.recipe.sounds} and transcripts": self.sha256}}


def load_speech_dataset(recipe: SpeechRecipe) -> SpeechDataset:
    """Read recordings and transcripts, keep those of speech, and split them as the recipe says.

    Left out is what has no transcript that can be read aloud (`read_text`), and what is longer than `longest` seconds.

    Raises:
        TrainingError: the files can't be had or read, differ from the published ones, or leave a split empty.
    """
    folder = Path(recipe.path)
    sounds = {path.relative_to(folder).as_posix(): path for path in sorted(folder.glob(recipe.sounds))}
    transcripts = folder / recipe.transcripts
    if not sounds or not transcripts.is_file():
        raise TrainingError(f"{folder}: holds no {recipe.sounds} or no {recipe.transcripts}; {_hint(recipe)}")
    contents = {name: path.read_bytes() for name, path in sounds.items()}
    digest = _checked_digest(folder, recipe.name, {**contents, recipe.transcripts: transcripts.read_bytes()})
    texts = read_transcripts(transcripts, recipe.characters)
    root = folder / recipe.sounds.partition("*")[0]
    named = {path.relative_to(root).with_suffix("").as_posix(): path for path in sounds.values()}
    clips = [_read_clip(name, path, texts[name], recipe) for name, path in named.items() if texts.get(name)]
    return _split(recipe, digest, [clip for clip in clips if clip.frames * clip.hop <= recipe.longest * clip.rate])


def _hint(recipe: SpeechRecipe) -> str:
    if recipe.name not in PACKAGES:
        return "set data.path to a folder of recordings and transcripts"
    both = PACKAGES[recipe.name]
    return (
        f"get them with `apt-get download {' '.join(both)}`, unpack both with `dpkg -x FILE {recipe.path}`, or set "
        "data.path to where they are (`/` where the packages are installed)"
    )


def _checked_digest(folder: Path, name: str, contents: Mapping[str, bytes]) -> str:
    found = digest_of(contents)
    expected = KNOWN_SHA256.get(name, found)
    if found != expected:
        raise TrainingError(
            f"{folder}: sha256 over the {len(contents)} files is {found[:16]}..., the published {name} has "
            f"{expected[:16]}...; give data of your own another data.name"
        )
    return found


def read_transcripts(path: Path, characters: str) -> dict[str, str]:
    """What each file says, by name; "" where it is nothing that can be read aloud. Lines are `name: words`.

    Raises:
        TrainingError: the file is not gzip of UTF-8.
    """
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: not gzipped text: {error}") from error
    parts = [line.partition(":") for line in lines if line.strip() and not line.startswith(";")]
    return {name.strip(): read_text(words, characters) for name, _, words in parts}


def read_text(words: str, characters: str) -> str:
    """A transcript as it is learnt: lower case, single digits as words; "" if anything but these characters is left.

    Numbers of several digits are not spelt out, because nobody says how they are read; what stands in brackets is no
    speech.
    """
    text = words.lower()
    for written, said in REPLACED.items():
        text = text.replace(written, said)
    text = re.sub(r"(?<![\w.])\d(?![\w.]*\d|\w)", lambda found: DIGITS[int(found.group())], text)
    text = " ".join(text.split()).lstrip(" .,")
    return text if set(text) <= set(characters) else ""


def _read_clip(name: str, path: Path, text: str, recipe: SpeechRecipe) -> Clip:
    samples = trimmed(_read_samples(path, recipe.sample_rate), recipe.hop, round(MARGIN * recipe.sample_rate))
    characters = torch.tensor([1 + recipe.characters.index(character) for character in text])
    return Clip(name, text, characters, mu_law.encode(samples), recipe.hop, recipe.sample_rate)


def _read_samples(path: Path, rate: int) -> NDArray[np.float64]:
    """Samples in [-1, 1), [n]."""
    try:
        with wave.open(str(path)) as file:
            found = file.getframerate(), file.getnchannels(), file.getsampwidth()
            content = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise TrainingError(f"{path}: not a WAV file: {error}") from error
    if found != (rate, 1, SAMPLE_BYTES):
        raise TrainingError(f"{path}: {found[0]} Hz, {found[1]} channels of {8 * found[2]} bits; {rate}, 1, 16 wanted")
    return np.frombuffer(content, "<i2").astype(np.float64) / 2**15


def trimmed(samples: NDArray[np.float64], hop: int, margin: int) -> NDArray[np.float64]:
    """Samples [n] without silence at both ends, but for so much of it; whole frames."""
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop)
    loud = np.flatnonzero(np.abs(frames).max(1) > LOUD)
    if not len(loud):
        return samples[:0]
    kept = margin // hop
    return frames[max(0, loud[0] - kept) : loud[-1] + 1 + kept].reshape(-1)


def _split(recipe: SpeechRecipe, digest: str, clips: list[Clip]) -> SpeechDataset:
    """By a number in [0, 1) that a transcript has from the split's seed: the lowest are held out."""
    shares = {clip: _lot(recipe.split_seed, clip.text) for clip in clips if clip.frames}
    held_out, kept = recipe.held_out_share, recipe.held_out_share + recipe.validation_share
    dataset = SpeechDataset(
        recipe,
        digest,
        Stream(tuple(clip for clip, lot in shares.items() if lot >= kept), recipe.window // recipe.hop),
        tuple(clip for clip, lot in shares.items() if held_out <= lot < kept),
        tuple(clip for clip, lot in shares.items() if lot < held_out),
    )
    if not (len(dataset.train) and dataset.validation and dataset.test):
        raise TrainingError(f"{recipe.path}: {len(clips)} clips are too few for data.window and the shares of splits")
    return dataset


def _lot(seed: int, text: str) -> float:
    """The same for the same words, however they are punctuated."""
    words = "".join(character for character in text if character.isalpha())
    return int.from_bytes(hashlib.sha256(f"{seed} {words}".encode()).digest()[:8]) / 2**64
