"""`POST /v1/completions`: text for OpenAI clients."""

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from app.choice import Piece, Scored
from app.completion import Ask, Completer
from app.errors import InvalidField
from app.routes import problems
from app.routes.answer import Answer, quote
from app.routes.asks import ends_of, sampling_of, wants_usage
from app.routes.body import read_json, request_body
from app.routes.connection import Watch
from app.routes.terms import terms_of
from app.schemas.completions import OpenAICompletion, OpenAICompletionRequest

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
    include_usage = wants_usage(body)
    request.scope["model"] = completer.text_model(body.model).name
    completion = await completer.begin(_ask(body), terms_of(request, body, whole=not body.stream))
    answer = Answer(request, completion, "cmpl", "text_completion")
    if body.stream:
        return answer.stream(lambda piece: (_choice(piece),), include_usage=include_usage)
    whole = await Watch(request).whole(completion)
    return answer.whole([_choice(piece) for piece in whole])


def _choice(piece: Piece) -> str:
    logprobs = _logprobs(piece.scored) if piece.scored else "null"
    return (
        f'{{"index":{piece.index},"text":{quote(piece.text)},"logprobs":{logprobs},'
        f'"finish_reason":{quote(piece.finish)}}}'
    )


def _logprobs(scored: Sequence[Scored]) -> str:
    likely = [None if one.top is None else {other.token: other.logprob for other in one.top} for one in scored]
    fields = {
        "tokens": [one.token for one in scored],
        "token_logprobs": [one.logprob for one in scored],
        "top_logprobs": likely,
        "text_offset": [one.offset for one in scored],
    }
    return quote(fields)


def _ask(body: OpenAICompletionRequest) -> Ask:
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    if max_tokens == 0 and not body.echo:
        raise InvalidField("max_tokens: 0 makes sense with echo only", field="max_tokens")
    return Ask(
        model=body.model,
        prompts=_prompts(body),
        n=body.n or 1,
        max_tokens=max_tokens,
        seed=body.seed,
        sampling=sampling_of(body, body.logprobs),
        echo=bool(body.echo),
        **ends_of(body),
    )


def _prompts(body: OpenAICompletionRequest) -> Sequence[str | Sequence[int]]:
    """Text, texts, ids or lists of ids, as a list of prompts; none is one empty text."""
    prompt = body.prompt
    if prompt is None or isinstance(prompt, str):
        return [prompt or ""]
    if isinstance(prompt[0], int):
        return [[token for token in prompt if isinstance(token, int)]]
    return [entry for entry in prompt if not isinstance(entry, int)]
