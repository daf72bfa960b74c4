"""Text request in, pieces of text out: prompts to ids, sequences to the engine, tokens to text as they come.

All text routes use this file; what differs between them is the shape of their answers. Knows the engine, the tokenizer
and the chat template; knows neither HTTP nor torch.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from app import latents
from app.chat import ChatTemplate, Conversation
from app.choice import Choice, Piece, usage_of
from app.engine.engine import Engine
from app.engine.jobs import Grammar, ModelInfo, Sampling, SequenceJob
from app.engine.stream import TokenStream
from app.engine.terms import Terms
from app.errors import DeadlineExceeded, InvalidField
from app.schemas.text import MAX_CHOICES, Usage
from app.text import Tokenizer

DEFAULT_MAX_TOKENS = 128
INLINE_LENGTH = 4096  # characters that are tokenized on the event loop
THREADS = 2  # for longer ones, and for chat templates
TOKENIZER_SLACK = 4  # a tokenizer may normalise text away before it cuts it into tokens

Prompt: TypeAlias = str | Sequence[int] | Conversation

log = logging.getLogger("genserve.completion")


@dataclass(frozen=True, slots=True)
class Ask:
    """What all text routes come down to.

    Attributes:
        prompts: texts, ids or conversations; each gets n choices.
        max_tokens: None for what is usual or, if that is less, what fits.
        stops: strings before which the text ends.
        echo: whether the prompt is part of the text.
        stop_tokens: further ids that end the text.
        min_tokens: so many are generated before anything may end the text.
        ignore_eos: the model's own ends do not end the text.
        grammar: what the text has to look like.
        usual_tokens: what is usual.
        limit_field: what the route calls max_tokens.
    """

    model: str | None
    prompts: Sequence[Prompt]
    n: int
    max_tokens: int | None
    seed: int | None
    sampling: Sampling
    stops: tuple[str, ...] = ()
    echo: bool = False
    stop_tokens: tuple[int, ...] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    grammar: Grammar | None = None
    usual_tokens: int = DEFAULT_MAX_TOKENS
    limit_field: str = "max_tokens"

    @property
    def prompt_field(self) -> str:
        """What the route calls its prompts."""
        return "messages" if isinstance(self.prompts[0], Conversation) else "prompt"


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
        return usage_of(self.prompt_tokens, self.completion_tokens)

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
            InvalidField: the worker refuses the grammar.
            GenserveError: the engine failed a choice.
        """
        try:
            async for index, chunk in self._stream:
                piece = self.choices[index].push(chunk)
                if piece.finish is not None and chunk.finish is None:  # a stop string: its slot is wanted elsewhere
                    self._stream.cancel(index)
                if piece.text or piece.scored or piece.finish is not None:
                    yield piece
        except InvalidField as error:  # the routes know the grammar by other names
            field = _grammar_field(self.choices[0].job.grammar)
            raise InvalidField(error.detail.replace(str(error.field), field, 1), field=field) from None
        finally:
            self.close()


class Completer:
    """Text generation as the routes see it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tokenizers: dict[str, Tokenizer] = {}
        self._templates: dict[str, ChatTemplate | None] = {}
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="prompts")

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def prepare(self) -> None:
        """Read what belongs to the models, so that no request waits for it."""
        for info in self._engine.models.values():
            if info.task == "text" and info.error is None:
                self._tokenizer(info)
                self._template(info)

    def text_model(self, name: str | None) -> ModelInfo:
        """The text model of that name, or the first one.

        Raises:
            ModelNotFound: there is none; and what `Engine.model` raises.
        """
        return self._engine.model(name, "text")

    def chats(self, info: ModelInfo) -> bool:
        """Whether a model answers messages."""
        return self._template(info) is not None

    async def begin(self, ask: Ask, terms: Terms = Terms()) -> Completion:  # noqa: B008
        """Check, encode and submit; the text comes from `Completion.pieces`.

        Raises:
            GenserveError: the request does not fit the model, or the engine refuses it.
        """
        deadline = asyncio.get_running_loop().time() + terms.seconds
        info = self.text_model(ask.model)
        seed = secrets.randbelow(latents.MAX_SEED - MAX_CHOICES) if ask.seed is None else ask.seed
        _check_choices(ask, seed)
        _check_tokens(ask, info)
        tokenizer = self._tokenizer(info)
        prompts = await self._encode_all(ask, tokenizer, info, deadline)
        jobs = [
            _job(ask, info, ids, seed + place * ask.n + j) for place, ids in enumerate(prompts) for j in range(ask.n)
        ]
        choices = [
            Choice(index, job, tokenizer, ask.stops, echo=ask.echo, continues=_continues(ask.prompts[index // ask.n]))
            for index, job in enumerate(jobs)
        ]
        return Completion(info, seed, ask.n, choices, self._engine.stream(jobs, terms.left(deadline)))

    async def _encode_all(
        self, ask: Ask, tokenizer: Tokenizer, info: ModelInfo, deadline: float
    ) -> list[tuple[int, ...]]:
        """The ids of each prompt; of what is long in a thread, where nothing is begun once the time is over.

        Raises:
            DeadlineExceeded: they were not there by then.
        """

        def encode_all() -> list[tuple[int, ...]]:
            return [self._encode(prompt, tokenizer, info) for prompt in ask.prompts]

        if ask.prompt_field == "prompt" and sum(len(prompt) for prompt in ask.prompts) <= INLINE_LENGTH:
            return encode_all()
        try:  # long enough to hold up other requests
            async with asyncio.timeout_at(deadline):
                return await asyncio.get_running_loop().run_in_executor(self._pool, encode_all)
        except TimeoutError:
            raise DeadlineExceeded("the prompt was not read in time") from None

    def _encode(self, prompt: Prompt, tokenizer: Tokenizer, info: ModelInfo) -> tuple[int, ...]:
        """A prompt's ids; an empty text begins where texts begin, or after the token that ends them.

        Raises:
            InvalidField: it is too long, does not fit the vocabulary, or the model takes no messages.
        """
        limit = info.max_length * tokenizer.longest * TOKENIZER_SLACK
        field = "messages" if isinstance(prompt, Conversation) else "prompt"
        if len(prompt) > limit and not _is_ids(prompt):
            raise InvalidField(f"{field}: {len(prompt)} characters are too many for {info.name}", field=field)
        if isinstance(prompt, Conversation):
            ids = tuple(self._chat_template(info).encode(prompt, tokenizer, limit))
        elif isinstance(prompt, str):
            ids = (*info.start_tokens, *tokenizer.encode(prompt))
        else:
            ids = tuple(prompt)
        return _checked(ids or info.stop_tokens[:1] or (0,), info, field)

    def _chat_template(self, info: ModelInfo) -> ChatTemplate:
        if (template := self._template(info)) is None:
            raise InvalidField(f"model: {info.name} has no chat template; it completes texts only", field="model")
        return template

    def _template(self, info: ModelInfo) -> ChatTemplate | None:
        """The compiled chat template, if there is one that can be compiled."""
        if not info.chat_template:
            return None
        if info.name not in self._templates:
            self._templates[info.name] = _read_template(info, self._tokenizer(info))
        return self._templates[info.name]

    def _tokenizer(self, info: ModelInfo) -> Tokenizer:
        if info.name not in self._tokenizers:
            self._tokenizers[info.name] = Tokenizer(Path(info.tokenizer))
        return self._tokenizers[info.name]


def _read_template(info: ModelInfo, tokenizer: Tokenizer) -> ChatTemplate | None:
    def name(tokens: Sequence[int]) -> str:
        return tokenizer.token(tokens[0]) if tokens else ""

    try:
        source = Path(info.chat_template).read_text(encoding="utf-8")
        return ChatTemplate(source, bos=name(info.start_tokens), eos=name(info.stop_tokens))
    except (OSError, ValueError) as error:
        log.error("%s does not chat, its chat template can't be used: %s", info.name, error)
        return None


def _is_ids(prompt: Prompt) -> bool:
    return not isinstance(prompt, (str, Conversation))


def _continues(prompt: Prompt) -> bool:
    """Whether what is generated goes on with a text, rather than beginning one."""
    return bool(prompt) and not isinstance(prompt, Conversation)


def _checked(ids: tuple[int, ...], info: ModelInfo, field: str) -> tuple[int, ...]:
    """The same ids.

    Raises:
        InvalidField: one is not in the vocabulary, or they leave no room for a token.
    """
    if any(token >= info.vocab_size for token in ids):
        raise InvalidField(f"{field}: token ids must be below {info.vocab_size}", field=field)
    if len(ids) >= info.max_length:
        limit = f"{info.name} holds {info.max_length}, prompt included"
        raise InvalidField(f"{field}: {len(ids)} tokens leave no room; {limit}", field=field)
    return ids


def _job(ask: Ask, info: ModelInfo, ids: tuple[int, ...], seed: int) -> SequenceJob:
    room, field = info.max_length - len(ids), ask.limit_field
    max_tokens = min(ask.usual_tokens, room) if ask.max_tokens is None else ask.max_tokens
    if max_tokens > room:
        raise InvalidField(
            f"{field}: {max_tokens} after a prompt of {len(ids)} tokens exceed the {info.max_length} of {info.name}",
            field=field,
        )
    if ask.min_tokens > max_tokens:
        raise InvalidField(f"min_tokens: {ask.min_tokens} are more than {field}, {max_tokens}", field="min_tokens")
    own = () if ask.ignore_eos else info.stop_tokens
    return SequenceJob(
        info.name,
        ids,
        max_tokens,
        seed,
        ask.sampling,
        stop_tokens=tuple(dict.fromkeys((*own, *ask.stop_tokens))),
        min_tokens=ask.min_tokens,
        grammar=ask.grammar,
        score_prompt=ask.echo and ask.sampling.logprobs is not None,
    )


def _check_choices(ask: Ask, seed: int) -> None:
    count = len(ask.prompts) * ask.n
    if count > MAX_CHOICES:
        raise InvalidField(f"n: {len(ask.prompts)} prompts x {ask.n} exceed {MAX_CHOICES} choices", field="n")
    if seed + count - 1 > latents.MAX_SEED:
        raise InvalidField(f"seed: seed + choices - 1 must not exceed {latents.MAX_SEED}", field="seed")


def _check_tokens(ask: Ask, info: ModelInfo) -> None:
    """Raise for tokens that the model has not, and for ends of a text that its grammar decides."""
    biased = [token for token, _ in ask.sampling.bias]
    for name, tokens in (("logit_bias", biased), ("stop_token_ids", ask.stop_tokens)):
        if any(token >= info.vocab_size for token in tokens):
            raise InvalidField(f"{name}: token ids must be below {info.vocab_size}", field=name)
    for name, given in (("min_tokens", ask.min_tokens), ("ignore_eos", ask.ignore_eos)):
        if given and ask.grammar is not None:
            raise InvalidField(f"{name}: not together with {_grammar_field(ask.grammar)}", field=name)


def _grammar_field(grammar: Grammar | None) -> str:
    """What the routes call a grammar."""
    return "regex" if grammar is not None and grammar.kind == "regex" else "response_format"
