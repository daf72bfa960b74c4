"""From a transcript to sound: letters to a condition, one sequence to the engine, its tokens to samples as they come.

Knows requests, the engine and WAV files; knows neither HTTP nor torch.
"""

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app import wav
from app.codecs import Provenance
from app.engine.engine import Engine
from app.engine.jobs import Condition, ModelInfo, Sampling, SequenceJob
from app.engine.stream import TokenStream
from app.engine.terms import Terms
from app.errors import InvalidField
from app.latents import MAX_SEED
from app.schemas.audio import AudioRequest
from app.telemetry import Telemetry

MOST_NAMED = 8  # letters that an error lists


@dataclass(frozen=True, slots=True)
class Speech:
    """A request for sound that has been admitted.

    Attributes:
        info: of the model.
        seed: of its noise.
        samples: how many there will be.
        provenance: written into the file.
    """

    info: ModelInfo
    seed: int
    samples: int
    provenance: Provenance
    _stream: TokenStream = field(repr=False)
    _telemetry: Telemetry = field(repr=False)

    @property
    def sample_rate(self) -> int:
        """Samples a second."""
        rate: int = self.info.output["sample_rate"]
        return rate

    def close(self) -> None:
        """Give up what has not been made yet; harmless at the end."""
        self._stream.close()

    async def pieces(self) -> AsyncIterator[bytes]:
        """A WAV file as it is made, its head first.

        Raises:
            GenserveError: the engine failed it.
        """
        first, seconds = True, self._telemetry.audio_seconds.labels(self.info.name)
        try:
            async for _, chunk in self._stream:
                seconds.inc(len(chunk.tokens) / self.sample_rate)
                yield (self._head(None) if first else b"") + wav.samples(list(chunk.tokens))
                first = False
        finally:
            self.close()

    async def whole(self) -> bytes:
        """The same file, which now says how long it is.

        Raises:
            GenserveError: the engine failed it.
        """
        skipped = len(self._head(None))
        made = b"".join([piece async for piece in self.pieces()])[skipped:]
        return self._head(len(made) // wav.SAMPLE_BYTES) + made

    def _head(self, count: int | None) -> bytes:
        return wav.head(self.sample_rate, self.provenance, count)


class Speaker:
    """Sound as the routes see it."""

    def __init__(self, engine: Engine, telemetry: Telemetry, max_seconds: float) -> None:
        self._engine, self._telemetry, self._max_seconds = engine, telemetry, max_seconds

    def model(self, name: str | None) -> ModelInfo:
        """The speech model of that name, or the first one.

        Raises:
            ModelNotFound: there is none; and what `Engine.model` raises.
        """
        return self._engine.model(name, "speech")

    def begin(self, request: AudioRequest, terms: Terms) -> Speech:
        """Check and submit; the sound comes from `Speech.pieces`, or as a whole.

        Raises:
            GenserveError: the request does not fit the model, or the engine refuses it.
        """
        info = self.model(request.model)
        letters = _letters(request.prompt, info)
        samples = self._samples(request, len(letters), info)
        seed = random.randrange(MAX_SEED) if request.seed is None else request.seed  # noqa: S311
        job = SequenceJob(
            info.name,
            (info.output["start_token_id"],),
            samples,
            seed,
            _sampling(request, info),
            condition=_condition(samples, letters, info),
        )
        provenance = Provenance(info.identity, _told(request, seed, samples, info))
        return Speech(info, seed, samples, provenance, self._engine.stream([job], terms), self._telemetry)

    def _samples(self, request: AudioRequest, letters: int, info: ModelInfo) -> int:
        """How many a request comes to.

        Raises:
            InvalidField: fewer than one, more than the model or the operator allows, or said twice.
        """
        rate: int = info.output["sample_rate"]
        if request.seconds is not None and request.speed is not None:
            raise InvalidField("speed: has no meaning beside seconds", field="speed")
        asked = round(letters * info.output["samples_per_character"] / (request.speed or 1.0))
        field = "prompt" if request.seconds is None else "seconds"
        samples = asked if request.seconds is None else round(request.seconds * rate)
        most = min(info.max_length - 1, int(self._max_seconds * rate))
        if not 1 <= samples <= most:
            said = f"{samples / rate:g} s of sound; {info.name} makes {1 / rate:g} to {most / rate:g} s"
            raise InvalidField(f"{field}: {said}", field=field)
        return samples


def _letters(prompt: str, info: ModelInfo) -> list[int]:
    """The numbers of a prompt's letters, from 1.

    Raises:
        InvalidField: the model does not know one of them.
    """
    known = {letter: place + 1 for place, letter in enumerate(info.output["characters"])}
    text = prompt.lower()
    strange = list(dict.fromkeys(letter for letter in text if letter not in known))
    if strange:
        named = ", ".join(repr(letter) for letter in strange[:MOST_NAMED])
        more = f" and {len(strange) - MOST_NAMED} more" if len(strange) > MOST_NAMED else ""
        said = f"{info.name} does not know {named}{more}; it reads {info.output['characters']!r}"
        raise InvalidField(f"prompt: {said}", field="prompt")
    return [known[letter] for letter in text]


def _condition(samples: int, letters: list[int], info: ModelInfo) -> Condition:
    """What the network is told: how many samples the clip has, then its letters.

    Raises:
        InvalidField: the letters are more than it takes.
    """
    if len(letters) + 1 > info.condition_length:
        said = f"{len(letters)} letters; {info.name} takes {info.condition_length - 1}"
        raise InvalidField(f"prompt: {said}", field="prompt")
    return np.array([samples, *letters], np.float32)


def _sampling(request: AudioRequest, info: ModelInfo) -> Sampling:
    own: float = info.output.get("temperature", 1.0)
    temperature = own if request.temperature is None else request.temperature
    return Sampling(temperature=temperature, top_k=request.top_k, top_p=request.top_p)


def _told(request: AudioRequest, seed: int, samples: int, info: ModelInfo) -> dict[str, Any]:
    """What the file tells of its request; the prompt only where that was asked for."""
    fields = request.model_dump(include={"temperature", "top_k", "top_p"}, exclude_defaults=True)
    prompt = {"prompt": request.prompt} if request.prompt_in_provenance else {}
    return {"seed": seed, "seconds": samples / info.output["sample_rate"], **fields, **prompt}
