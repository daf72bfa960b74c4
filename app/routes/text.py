"""`POST /v1/text/complete`: text as JSON or as server-sent events."""

import json
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.choice import Piece
from app.completion import Ask, Completer, Completion
from app.errors import GenserveError
from app.routes import problems
from app.routes.asks import ends_of, sampling_of
from app.routes.body import read_json, request_body
from app.routes.connection import Watch
from app.routes.events import EventStream, event
from app.routes.reproduce import reproduction_headers
from app.routes.terms import terms_of
from app.schemas.text import TextAnswer, TextChoice, TextRequest

router = APIRouter()


@router.post(
    "/v1/text/complete",
    summary="Complete a text",
    response_model=TextAnswer,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **problems.responses(400, 404, 413, 415, 429, 500, 503, 504),
    },
    openapi_extra=request_body(TextRequest),
)
async def complete(request: Request) -> Response:
    """`{}` lets the first text model speak; choice j of the request uses seed + j."""
    completer: Completer = request.app.state.completer
    body = await read_json(request, TextRequest)
    request.scope["model"] = completer.text_model(body.model).name
    completion = await completer.begin(_ask(body), terms_of(request, body, whole=not body.stream))
    headers = reproduction_headers(request, completion.info, completion.seed)
    if body.stream:
        return _stream(request, completion, headers)
    whole = await Watch(request).whole(completion)
    choices = [
        TextChoice(
            index=piece.index,
            text=piece.text,
            finish_reason=piece.finish or "length",
            seed=completion.choices[piece.index].job.seed,
            usage=completion.choices[piece.index].usage,
        )
        for piece in whole
    ]
    answer = TextAnswer(model=completion.info.identity, choices=choices, usage=completion.usage)
    return JSONResponse(answer.model_dump(), headers=headers)


def _ask(body: TextRequest) -> Ask:
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    return Ask(body.model, prompts, body.n, body.max_tokens, body.seed, sampling_of(body), **ends_of(body))


def _stream(request: Request, completion: Completion, headers: dict[str, str]) -> Response:
    """Events `{"index", "text"}`; a choice's last one has finish_reason, seed and usage too."""

    def write(piece: Piece) -> bytes:
        data: dict[str, Any] = {"index": piece.index, "text": piece.text}
        if piece.finish is not None:
            choice = completion.choices[piece.index]
            data |= {"finish_reason": piece.finish, "seed": choice.job.seed, "usage": choice.usage.model_dump()}
        return event(json.dumps(data))

    def fail(error: GenserveError) -> bytes:
        return b"event: error\n" + event(problems.problem(request, error).model_dump_json(exclude_none=True))

    return EventStream(request, completion, write, lambda: b"", fail, headers)
