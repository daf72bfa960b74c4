"""`POST /v1/completions`: text for OpenAI clients."""

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.completion import Ask, Completer, Completion, Piece, Scored
from app.engine.jobs import Sampling
from app.errors import InvalidField
from app.routes import problems
from app.routes.body import read_json, request_body
from app.routes.connection import Watch
from app.routes.events import EventStream, event
from app.routes.reproduce import reproduction_headers
from app.routes.terms import terms_of
from app.schemas import OpenAICompletion, OpenAICompletionChoice, OpenAICompletionRequest, OpenAILogprobs

DEFAULT_MAX_TOKENS = 16  # OpenAI's

router = APIRouter()


@router.post(
    "/v1/completions",
    summary="Complete a text (OpenAI)",
    response_model=OpenAICompletion,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **problems.responses(400, 404, 413, 415, 429, 500, 503, 504, openai=True),
    },
    openapi_extra=request_body(OpenAICompletionRequest),
)
async def completions(request: Request) -> Response:
    """OpenAI's completions.create: prompts as text or token ids; choice index = prompt x n + j."""
    completer: Completer = request.app.state.completer
    body = await read_json(request, OpenAICompletionRequest)
    if body.stream_options is not None and not body.stream:
        raise InvalidField("stream_options: has no meaning without stream", field="stream_options")
    request.scope["model"] = completer.text_model(body.model).name
    completion = await completer.begin(_ask(body), terms_of(request, body, whole=not body.stream))
    shape = _Shape(completion)
    headers = reproduction_headers(request, completion.info, completion.seed)
    if body.stream:
        return _stream(
            request, completion, shape, headers, bool(body.stream_options and body.stream_options.include_usage)
        )
    whole = await Watch(request)(asyncio.ensure_future(completion.whole()))
    answer = shape.answer([shape.choice(piece) for piece in whole])
    answer.usage = completion.usage
    return JSONResponse(answer.model_dump(), headers=headers)


class _Shape:
    """Pieces in OpenAI's shape; id and time are the same for all of a request."""

    def __init__(self, completion: Completion) -> None:
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = completion.info.name

    def answer(self, choices: list[OpenAICompletionChoice]) -> OpenAICompletion:
        return OpenAICompletion(id=self._id, created=self._created, model=self._model, choices=choices)

    def choice(self, piece: Piece) -> OpenAICompletionChoice:
        logprobs = _logprobs(piece.scored) if piece.scored else None
        return OpenAICompletionChoice(index=piece.index, text=piece.text, logprobs=logprobs, finish_reason=piece.finish)


def _logprobs(scored: Sequence[Scored]) -> OpenAILogprobs:
    return OpenAILogprobs(
        tokens=[token.token for token in scored],
        token_logprobs=[token.logprob for token in scored],
        top_logprobs=[token.top for token in scored],
        text_offset=[token.offset for token in scored],
    )


def _stream(
    request: Request, completion: Completion, shape: _Shape, headers: dict[str, str], include_usage: bool
) -> Response:
    def write(piece: Piece) -> bytes:
        return event(shape.answer([shape.choice(piece)]).model_dump_json())

    def finish() -> bytes:
        if not include_usage:
            return b""
        last = shape.answer([])
        last.usage = completion.usage
        return event(last.model_dump_json())

    return EventStream(
        request, completion, write, finish, lambda error: event(problems.openai_error(error).model_dump_json()), headers
    )


def _ask(body: OpenAICompletionRequest) -> Ask:
    sampling = Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        bias=_bias(body.logit_bias or {}),
        logprobs=body.logprobs,
    )
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    if max_tokens == 0 and not body.echo:
        raise InvalidField("max_tokens: 0 makes sense with echo only", field="max_tokens")
    return Ask(body.model, _prompts(body), body.n or 1, max_tokens, body.seed, sampling, stops, bool(body.echo))


def _prompts(body: OpenAICompletionRequest) -> Sequence[str | Sequence[int]]:
    """Text, texts, ids or lists of ids, as a list of prompts; none is one empty text."""
    prompt = body.prompt
    if prompt is None or isinstance(prompt, str):
        return [prompt or ""]
    if isinstance(prompt[0], int):
        return [[token for token in prompt if isinstance(token, int)]]
    return [entry for entry in prompt if not isinstance(entry, int)]


def _bias(given: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    """OpenAI's logit_bias: token ids as strings.

    Raises:
        InvalidField: a key is not a token id.
    """
    wrong = [key for key in given if not (key.isascii() and key.isdigit() and len(key) <= 9 and str(int(key)) == key)]
    if wrong:
        raise InvalidField(f"logit_bias: {wrong[0][:32]!r} is not a token id", field="logit_bias")
    return tuple((int(key), value) for key, value in given.items())
