"""From a caption to the codes of pictures: words to ids, sequences to the engine, the likeliest of several candidates.

Knows requests, the engine and vocabularies; knows neither HTTP nor torch, and no pixels: a decoder makes those.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.engine import Engine
from app.engine.jobs import LatentJob, Latents, ModelInfo, Sampling, SequenceJob
from app.engine.terms import Terms
from app.errors import ComputeFailed, InvalidField
from app.latents import MAX_SEED, further_seeds
from app.plan import Plan
from app.schemas.captions import CaptionFields
from app.schemas.images import MAX_IMAGES, ImageRequest
from app.vocabulary import Vocabulary

MAX_SEQUENCES = 64  # pictures x candidates of one request: what the shortest queue holds
MOST_NAMED = 8  # words that an error lists
MOST_LISTED = 4096  # words of a vocabulary that is shown
LEAST_LOGPROB = -1e4  # of a code; a sum with infinity in it has no order
# What may be said with a caption; everything else is about latents.
TAKEN = frozenset(("model", "prompt", "n", "seed", "scale", "format", *CaptionFields.model_fields))

Codes = list[list[int]]


@dataclass(frozen=True, slots=True)
class Draft:
    """Pictures of a caption, before their codes are written.

    Attributes:
        info: of the model that writes the codes.
        decoder: of the one that makes pictures of them.
        prompt: the caption's ids, padded.
        tokens: codes of a picture.
        seed: of the first picture.
        n: how many pictures.
        candidates: for each of them.
        sampling: how codes are drawn.
        guidance: how closely they follow the caption; None for the model's own.
        story: what the provenance of each picture tells, besides its seed.
        scale: of the pictures.
    """

    info: ModelInfo
    decoder: ModelInfo
    prompt: tuple[int, ...]
    tokens: int
    seed: int
    n: int
    candidates: int
    sampling: Sampling
    guidance: float | None
    story: Mapping[str, Any]
    scale: int

    def jobs(self) -> list[SequenceJob]:
        """One for each candidate of each picture; the first candidate's seed is the picture's own."""
        seeds = [own for j in range(self.n) for own in further_seeds(self.seed + j, self.candidates)]
        guided = self.guidance is not None and self.info.condition_length > 0
        told = np.array([self.guidance], np.float32) if guided else None
        return [
            SequenceJob(self.info.name, self.prompt, self.tokens, seed, self.sampling, condition=told) for seed in seeds
        ]

    @property
    def scored(self) -> int:
        """Tokens that are run once more, to find how likely a candidate is; none where there is no choice."""
        return self.tokens if self.candidates > 1 else 0

    def scores(self, codes: Codes, guidance: float) -> list[SequenceJob]:
        """How likely each sequence of codes is: with the caption at a guidance of 1, without it at 0."""
        return [
            SequenceJob(
                self.info.name,
                (*self.prompt, *own),
                max_tokens=0,
                seed=0,
                sampling=Sampling(logprobs=0),
                score_prompt=True,
                score_from=len(self.prompt),
                condition=np.array([guidance], np.float32),
            )
            for own in codes
        ]

    def plan(self, codes: Codes) -> Plan:
        """What is left to do: decode these codes, one sequence a picture.

        Raises:
            ComputeFailed: one of them is none of the decoder's.
        """
        if any(code >= self.decoder.codes for own in codes for code in own):
            raise ComputeFailed(f"{self.info.name} wrote a code that {self.decoder.name} does not have")
        latents: Latents = np.array(codes, np.float32).reshape(-1, *self.decoder.latent_shape)
        job = LatentJob(self.decoder.name, latents, np.zeros(len(latents), np.int64))
        seeds = tuple(range(self.seed, self.seed + self.n))
        scaled = {"scale": self.scale} if self.scale > 1 else {}
        stories = tuple({"seed": own, **self.story, **scaled} for own in seeds)
        return Plan(self.info, job, self.seed, seeds, (None,) * self.n, stories, self.scale)


class Captions:
    """Pictures of captions, up to their codes, as the service sees them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._vocabularies: dict[str, Vocabulary] = {}

    def prepare(self) -> None:
        """Read the vocabularies, so that no request waits for them."""
        for info in self._engine.models.values():
            if info.task == "captions":
                self.vocabulary(info)

    def vocabulary(self, info: ModelInfo) -> Vocabulary:
        """The words of a model."""
        if info.name not in self._vocabularies:
            self._vocabularies[info.name] = Vocabulary(Path(info.tokenizer), info.output["pad_token_id"])
        return self._vocabularies[info.name]

    def draft(self, request: ImageRequest, info: ModelInfo) -> Draft:
        """From a request to what a model is to write.

        Raises:
            InvalidField: a field has no meaning beside a caption, or the caption does not fit the model.
        """
        for field in sorted(request.model_fields_set - TAKEN):
            if getattr(request, field) is not None:
                raise InvalidField(f"{field}: has no meaning for {info.name}, which draws captions", field=field)
        if request.format not in (None, "png", "webp"):
            raise InvalidField(f"format: {info.name} draws captions; it has no {request.format}", field="format")
        _check_guided(request, info)
        n, candidates = request.n or 1, request.candidates or 1
        decoder = self._engine.model(info.output["decoder"], "codes")
        return Draft(
            info,
            decoder,
            self._read(request.prompt, info),
            info.output["tokens"],
            _seed(request.seed, n, candidates),
            n,
            candidates,
            _sampling(request, info),
            request.guidance,
            {"decoder": decoder.identity, **_told(request)},
            request.scale,
        )

    async def codes(self, draft: Draft, terms: Terms, deadline: float) -> Codes:
        """The codes of each picture; of several candidates those that the caption makes likelier than any others.

        A candidate's score is log p(codes | caption) - log p(codes | no caption): what is likely anyway does not count.

        Args:
            draft: of the pictures.
            terms: on which the request is taken.
            deadline: of the whole request, by the loop's clock.

        Raises:
            GenserveError: the engine refuses or fails it.
        """
        codes, _ = await self._run(draft.jobs(), replace(terms, further=draft.scored * 2))
        if draft.candidates == 1:
            return codes
        _, told = await self._run(draft.scores(codes, 1.0), replace(terms.onward(deadline), further=draft.scored))
        _, untold = await self._run(draft.scores(codes, 0.0), terms.onward(deadline))
        best: NDArray[np.int64] = np.subtract(told, untold).reshape(draft.n, draft.candidates).argmax(axis=1)
        return [codes[place * draft.candidates + int(which)] for place, which in enumerate(best)]

    async def _run(self, jobs: Sequence[SequenceJob], terms: Terms) -> tuple[Codes, list[float]]:
        """The tokens of each sequence, and the sum of their log probabilities where these were asked for."""
        stream = self._engine.stream(jobs, terms)
        tokens, likely = [list[int]() for _ in jobs], [0.0] * len(jobs)
        try:
            async for index, chunk in stream:
                tokens[index] += chunk.tokens
                likely[index] += math.fsum(max(own.logprob, LEAST_LOGPROB) for own in chunk.logprobs)
        finally:
            stream.close()
        return tokens, likely

    def _read(self, caption: str | None, info: ModelInfo) -> tuple[int, ...]:
        """A caption's ids, padded.

        Raises:
            InvalidField: there is none, it is too long, or it has words that the model does not know.
        """
        if caption is None:
            raise InvalidField(f'prompt: {info.name} has to be told what to draw; "" for anything', field="prompt")
        ids, strange = self.vocabulary(info).read(caption)
        if strange:
            named = ", ".join(repr(word[:32]) for word in strange[:MOST_NAMED])
            more = f" and {len(strange) - MOST_NAMED} more" if len(strange) > MOST_NAMED else ""
            where = f"GET /v1/models/{info.name} lists the words that it knows"
            raise InvalidField(f"prompt: {info.name} does not know {named}{more}; {where}", field="prompt")
        length, padding = info.output["prompt_tokens"], info.output["pad_token_id"]
        if len(ids) > length:
            raise InvalidField(f"prompt: {len(ids)} words; {info.name} takes {length}", field="prompt")
        return (*ids, *[padding] * (length - len(ids)))


def _check_guided(request: ImageRequest, info: ModelInfo) -> None:
    """Refuse what only a model can do that is told how closely to follow its caption.

    Raises:
        InvalidField: it is asked of another.
    """
    for field in ("guidance", "candidates"):
        if not info.condition_length and getattr(request, field) not in (None, 1):
            raise InvalidField(f"{field}: {info.name} takes no guidance", field=field)


def _seed(asked: int | None, n: int, candidates: int) -> int:
    """The seed of the first picture.

    Raises:
        InvalidField: there are not so many seeds behind it, or the candidates are too many.
    """
    if n * candidates > MAX_SEQUENCES:
        said = f"{n} pictures x {candidates} candidates exceed {MAX_SEQUENCES}"
        raise InvalidField(f"candidates: {said}", field="candidates")
    seed = random.randrange(MAX_SEED - MAX_IMAGES) if asked is None else asked  # noqa: S311
    if seed + n - 1 > MAX_SEED:
        raise InvalidField(f"seed: seed + n - 1 must not exceed {MAX_SEED}", field="seed")
    return seed


def _sampling(request: ImageRequest, info: ModelInfo) -> Sampling:
    own: float = info.output.get("temperature", 1.0)
    return Sampling(
        temperature=own if request.temperature is None else request.temperature,
        top_k=request.top_k or 0,
        top_p=1.0 if request.top_p is None else request.top_p,
    )


def _told(request: ImageRequest) -> dict[str, Any]:
    """What a story holds of a request; the caption itself only where that was asked for."""
    fields = ["guidance", "temperature", "top_k", "top_p", "candidates"]
    fields += ["prompt"] if request.prompt_in_provenance else []
    return {name: value for name in fields if (value := getattr(request, name)) is not None}
