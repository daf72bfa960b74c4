"""Text request in, pieces of text out: prompts to ids, sequences to the engine, tokens to text as they come.

Both text routes use this file; what differs between them is the shape of their answers. Knows the engine and the
tokenizer; knows neither HTTP nor torch.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from app import latents
from app.engine.engine import Engine
from app.engine.jobs import Chunk, Logprob, ModelInfo, Sampling, SequenceJob
from app.engine.stream import TokenStream
from app.engine.terms import Terms
from app.errors import InvalidField
from app.schemas import MAX_CHOICES, Usage
from app.text import StopStrings, Tokenizer

DEFAULT_MAX_TOKENS = 128
INLINE_LENGTH = 4096  # characters that are tokenized on the event loop
TOKENIZER_SLACK = 4  # a tokenizer may normalise text away before it cuts it into tokens

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Ask:
    """What both text routes come down to.

    Attributes:
        prompts: texts or ids; each gets n choices.
        max_tokens: None for 128 or what fits.
        stops: strings before which the text ends.
        echo: whether the prompt is part of the text.
    """

    model: str | None
    prompts: Sequence[str | Sequence[int]]
    n: int
    max_tokens: int | None
    seed: int | None
    sampling: Sampling
    stops: tuple[str, ...] = ()
    echo: bool = False


@dataclass(frozen=True, slots=True)
class Scored:
    """One token of a text with its log probability: None for the first token of an echoed prompt."""

    token: str
    logprob: float | None
    top: dict[str, float] | None
    offset: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What a tick adds to a choice.

    Attributes:
        index: of the choice, prompt x n + j.
        text: whole characters, free of stop strings.
        scored: its tokens, when log probabilities were asked for.
        finish: why the choice ends with this piece; None while it goes on.
    """

    index: int
    text: str
    scored: tuple[Scored, ...] = ()
    finish: Finish | None = None


class Choice:
    """One continuation as it grows."""

    def __init__(self, index: int, job: SequenceJob, tokenizer: Tokenizer, ask: Ask) -> None:
        self.job = job
        self.tokens = 0
        self._index = index
        self._tokenizer = tokenizer
        self._detokenizer = tokenizer.stream()
        self._stops = StopStrings(ask.stops)
        self._forced = len(job.forced)
        self._prompt = tokenizer.decode(job.prompt)
        self._echo = ask.echo
        self._offset = 0 if ask.echo else len(self._prompt)
        self._measured = tokenizer.stream()  # for offsets, which run through an echoed prompt too

    @property
    def usage(self) -> Usage:
        """Tokens of this choice and of its prompt."""
        return _usage(len(self.job.prompt), self.tokens)

    def begin(self) -> Piece | None:
        """The echoed prompt, before anything is generated."""
        if not self._echo:
            return None
        first = self.job.prompt[0]
        scored = (self._score(first, None),) if self.job.sampling.logprobs is not None else ()
        return Piece(self._index, self._prompt, scored)

    def push(self, chunk: Chunk) -> Piece:
        """More tokens; a stop string in their text finishes the choice, whatever the chunk says."""
        text, scored = "", []
        for place, token in enumerate(chunk.tokens):
            if chunk.logprobs:
                scored.append(self._score(token, chunk.logprobs[place]))
            if self._forced:  # the prompt's own token, which `begin` has given
                self._forced -= 1
                continue
            self.tokens += 1
            text += self._stops.push(self._detokenizer.push(token))
            if self._stops.found:
                return Piece(self._index, text, tuple(scored), "stop")
        if chunk.finish is not None:
            text += self._stops.push(self._detokenizer.finish())
            finish: Finish = "stop" if self._stops.found else chunk.finish
            return Piece(self._index, text + self._stops.finish(), tuple(scored), finish)
        return Piece(self._index, text, tuple(scored))

    def _score(self, token: int, logprob: Logprob | None) -> Scored:
        name, offset = self._tokenizer.token(token), self._offset
        self._offset += len(self._measured.push(token))
        if logprob is None:
            return Scored(name, None, None, offset)
        top = {self._tokenizer.token(other): value for other, value in logprob.top}
        return Scored(name, logprob.logprob, top, offset)


def _usage(prompt: int, completion: int) -> Usage:
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


@dataclass(slots=True)
class Completion:
    """A text request that has been admitted.

    Attributes:
        info: the model.
        seed: of the first choice.
        n: choices of each prompt.
        choices: in the order of their indices.
    """

    info: ModelInfo
    seed: int
    n: int
    choices: list[Choice]
    _stream: TokenStream = field(repr=False)

    @property
    def prompt_tokens(self) -> int:
        """Tokens read; a prompt counts once, however many choices it gets."""
        return sum(len(choice.job.prompt) for choice in self.choices[:: self.n])

    @property
    def completion_tokens(self) -> int:
        """Tokens generated so far."""
        return sum(choice.tokens for choice in self.choices)

    def close(self) -> None:
        """Give up what has not been generated yet; harmless at the end."""
        self._stream.close()

    @property
    def usage(self) -> Usage:
        """Of all choices."""
        return _usage(self.prompt_tokens, self.completion_tokens)

    async def whole(self) -> list[Piece]:
        """Each choice in one piece.

        Raises:
            GenserveError: the engine failed a choice.
        """
        parts: list[list[Piece]] = [[] for _ in self.choices]
        async for piece in self.pieces():
            parts[piece.index].append(piece)
        return [
            Piece(index, "".join(p.text for p in own), tuple(s for p in own for s in p.scored), own[-1].finish)
            for index, own in enumerate(parts)
        ]

    async def pieces(self) -> AsyncIterator[Piece]:
        """The text of all choices as it comes.

        Raises:
            GenserveError: the engine failed a choice.
        """
        try:
            for choice in self.choices:
                if (piece := choice.begin()) is not None:
                    yield piece
            async for index, chunk in self._stream:
                piece = self.choices[index].push(chunk)
                if piece.finish is not None and chunk.finish is None:  # a stop string: its slot is wanted elsewhere
                    self._stream.cancel(index)
                if piece.text or piece.scored or piece.finish is not None:
                    yield piece
        finally:
            self.close()


class Completer:
    """Text generation as the routes see it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tokenizers: dict[str, Tokenizer] = {}

    def text_model(self, name: str | None) -> ModelInfo:
        """The text model of that name, or the first one.

        Raises:
            ModelNotFound: there is none; and what `Engine.model` raises.
        """
        return self._engine.model(name, "sequence")

    async def begin(self, ask: Ask, terms: Terms = Terms()) -> Completion:  # noqa: B008
        """Check, encode and submit; the text comes from `Completion.pieces`.

        Raises:
            GenserveError: the request does not fit the model, or the engine refuses it.
        """
        info = self.text_model(ask.model)
        tokenizer = self._tokenizer(info)
        if len(ask.prompts) * ask.n > MAX_CHOICES:
            raise InvalidField(f"n: {len(ask.prompts)} prompts x {ask.n} exceed {MAX_CHOICES} choices", field="n")
        seed = secrets.randbelow(latents.MAX_SEED - MAX_CHOICES) if ask.seed is None else ask.seed
        if seed + len(ask.prompts) * ask.n - 1 > latents.MAX_SEED:
            raise InvalidField(f"seed: seed + choices - 1 must not exceed {latents.MAX_SEED}", field="seed")
        _check_bias(ask.sampling, info)
        if sum(len(prompt) for prompt in ask.prompts) <= INLINE_LENGTH:
            prompts = _encode_all(ask.prompts, tokenizer, info)
        else:  # long enough to hold up other requests
            prompts = await asyncio.to_thread(_encode_all, ask.prompts, tokenizer, info)
        jobs = [
            _job(ask, info, ids, seed + place * ask.n + j) for place, ids in enumerate(prompts) for j in range(ask.n)
        ]
        choices = [Choice(index, job, tokenizer, ask) for index, job in enumerate(jobs)]
        return Completion(info, seed, ask.n, choices, self._engine.stream(jobs, terms))

    def _tokenizer(self, info: ModelInfo) -> Tokenizer:
        if info.name not in self._tokenizers:
            self._tokenizers[info.name] = Tokenizer(Path(info.tokenizer))
        return self._tokenizers[info.name]


def _encode_all(prompts: Sequence[str | Sequence[int]], tokenizer: Tokenizer, info: ModelInfo) -> list[tuple[int, ...]]:
    return [_encode(prompt, tokenizer, info) for prompt in prompts]


def _encode(prompt: str | Sequence[int], tokenizer: Tokenizer, info: ModelInfo) -> tuple[int, ...]:
    """A prompt's ids; an empty text begins where texts begin, after the token that ends them.

    Raises:
        InvalidField: an id is not in the vocabulary, or the prompt leaves no room for a token.
    """
    if isinstance(prompt, str) and len(prompt) > info.max_length * tokenizer.longest * TOKENIZER_SLACK:
        raise InvalidField(f"prompt: {len(prompt)} characters are too many for {info.name}", field="prompt")
    ids = tuple(tokenizer.encode(prompt) if isinstance(prompt, str) else prompt) or info.stop_tokens[:1] or (0,)
    if any(token >= info.vocab_size for token in ids):
        raise InvalidField(f"prompt: token ids must be below {info.vocab_size}", field="prompt")
    if len(ids) >= info.max_length:
        limit = f"{info.name} holds {info.max_length}, prompt included"
        raise InvalidField(f"prompt: {len(ids)} tokens leave no room; {limit}", field="prompt")
    return ids


def _job(ask: Ask, info: ModelInfo, ids: tuple[int, ...], seed: int) -> SequenceJob:
    room = info.max_length - len(ids)
    max_tokens = min(DEFAULT_MAX_TOKENS, room) if ask.max_tokens is None else ask.max_tokens
    if max_tokens > room:
        raise InvalidField(
            f"max_tokens: {max_tokens} after a prompt of {len(ids)} tokens exceed the {info.max_length} of {info.name}",
            field="max_tokens",
        )
    score = ask.echo and ask.sampling.logprobs is not None
    return SequenceJob(info.name, ids, max_tokens, seed, ask.sampling, info.stop_tokens, score)


def _check_bias(sampling: Sampling, info: ModelInfo) -> None:
    if any(token >= info.vocab_size for token, _ in sampling.bias):
        raise InvalidField(f"logit_bias: token ids must be below {info.vocab_size}", field="logit_bias")
