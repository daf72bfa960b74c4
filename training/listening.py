"""What clips that a network makes sound like, beside recordings of the same words: by measurement, nobody listens.

Knows networks and clips; knows nothing of runs, recipes or files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models import mu_law
from models.wavenet import WaveNet
from training import metrics, recognition, spectrum
from training.errors import TrainingError
from training.speaking import Wish, speak
from training.speech import Clip, SpeechDataset

TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.0)
SHORTEST, LONGEST = 0.6, 3.0  # seconds of a clip that is compared
COUNT = 20  # clips that are made at each temperature
SHOWN = 5

Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class Shown:
    """A recording, and what the network says when it is told the same words and as many samples."""

    name: str
    text: str
    real: Codes
    made: Codes
    rate: int


@dataclass(frozen=True)
class Impression:
    """What was found.

    Attributes:
        rows: a row a temperature, then one of clips that were told other words, then one of recordings.
        temperature: at which clips sound most like recordings.
        shown: clips made at that temperature: the first, none left out.
        how: how many clips were made and compared with how many prompts.
    """

    rows: Sequence[Mapping[str, Any]]
    temperature: float
    shown: tuple[Shown, ...]
    how: Mapping[str, Any]


def listen(network: WaveNet, dataset: SpeechDataset, temperatures: Sequence[float]) -> Impression:
    """Have the network say held-out prompts, as long as their recordings are, at each temperature.

    Raises:
        TrainingError: hardly any held-out clip is of a length that can be compared.
    """
    prompts = [clip for clip in dataset.test if SHORTEST <= len(clip.codes) / clip.rate <= LONGEST]
    if len(prompts) < 2:
        raise TrainingError(f"{len(prompts)} held-out clips of {SHORTEST} to {LONGEST} seconds: 2 are needed")
    said = prompts[:COUNT]
    ear = _Ear(prompts)
    made = _made(network, said, temperatures)
    judged = {temperature: ear.judge(clips) for temperature, clips in made.items()}
    temperature = min(judged, key=lambda temperature: judged[temperature]["distance"])
    rows: list[dict[str, Any]] = [{"temperature": f"{key:g}", **found} for key, found in judged.items()]
    control = speak(network, _wishes(said, _others(said), temperature))
    rows.append({"temperature": f"{temperature:g}, told other words", **ear.judge(control)})
    rows.append({"temperature": "recordings of other prompts", **ear.floor(dataset.train.clips)})
    shown = [
        Shown(clip.name, clip.text, clip.codes, codes, clip.rate)
        for clip, codes in zip(said[:SHOWN], made[temperature], strict=False)
    ]
    return Impression(rows, temperature, tuple(shown), _how(said, prompts))


def _how(said: Sequence[Clip], prompts: Sequence[Clip]) -> dict[str, Any]:
    return {"made": len(said), "prompts": len(prompts), "shortest": SHORTEST, "longest": LONGEST}


def _made(network: WaveNet, clips: Sequence[Clip], temperatures: Sequence[float]) -> dict[float, list[Codes]]:
    """At each temperature, a clip for each of these that says what it says; all are made at once."""
    own = [clip.characters for clip in clips]
    found = speak(network, [wish for temperature in temperatures for wish in _wishes(clips, own, temperature)])
    count = len(clips)
    return {temperature: found[i * count : (i + 1) * count] for i, temperature in enumerate(temperatures)}


def _wishes(clips: Sequence[Clip], words: Sequence[Tensor], temperature: float) -> list[Wish]:
    """Clips as long as these that say these words; seeds from 0."""
    pairs = enumerate(zip(clips, words, strict=True))
    return [Wish(said, len(clip.codes), seed, temperature) for seed, (clip, said) in pairs]


def _others(clips: Sequence[Clip]) -> list[Tensor]:
    """For each clip the words of the next longer one, and for the longest those of the shortest."""
    order = sorted(range(len(clips)), key=lambda place: len(clips[place].codes))
    following = dict(zip(order, [*order[1:], order[0]], strict=True))
    return [clips[following[place]].characters for place in range(len(clips))]


class _Ear:
    """Compares clips with recordings of the prompts; clip i should be recording i."""

    def __init__(self, prompts: Sequence[Clip]) -> None:
        self._bands = [clip.bands.numpy() for clip in prompts]
        self._templates = [recognition.features(bands) for bands in self._bands]
        self._hop, self._rate = prompts[0].hop, prompts[0].rate

    def judge(self, clips: Sequence[Codes]) -> dict[str, float]:
        """How far their frames are from those of the recordings, and which prompts they are nearest to."""
        bands = [spectrum.log_bands(mu_law.decode(codes), self._hop, self._rate) for codes in clips]
        ranks = recognition.ranks([recognition.features(found) for found in bands], self._templates)
        return {
            "distance": _frechet(bands, self._bands[: len(clips)]),
            "nearest": float(np.mean([rank == 0 for rank in ranks])),
            "median_rank": float(np.median(ranks)) + 1,
        }

    def floor(self, clips: Sequence[Clip]) -> dict[str, float]:
        """How far the frames of other recordings are from them."""
        return {"distance": _frechet([clip.bands.numpy() for clip in clips], self._bands)}


def _frechet(first: Sequence[spectrum.Frames], second: Sequence[spectrum.Frames]) -> float:
    """Frechet distance of two sets of frames."""
    one, other = (np.concatenate(list(parts)).astype(np.float64) for parts in (first, second))
    return float(f"{metrics.frechet_distance(one, other):.4g}")
