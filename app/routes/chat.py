"""`POST /v1/chat/completions`: answers to messages, for OpenAI clients."""

from collections.abc import Callable, Sequence

from fastapi import APIRouter, Request, Response

from app.chat import Conversation, Turn
from app.choice import Likely, Piece, Scored
from app.completion import Ask, Completer
from app.errors import InvalidField
from app.routes import problems
from app.routes.answer import Answer, quote
from app.routes.asks import ends_of, sampling_of, wants_usage
from app.routes.body import read_json, request_body
from app.routes.connection import Watch
from app.routes.terms import terms_of
from app.schemas.chat import Message, OpenAIChatCompletion, OpenAIChatRequest

USUAL_TOKENS = 1024  # or what fits; a slot's whole length would be refused as too long to wait for

router = APIRouter()


@router.post(
    "/v1/chat/completions",
    summary="Answer messages (OpenAI)",
    response_model=OpenAIChatCompletion,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **problems.responses(400, 404, 413, 415, 429, 500, 503, 504, openai=True),
    },
    openapi_extra=request_body(OpenAIChatRequest),
)
async def chat_completions(request: Request) -> Response:
    """OpenAI's chat.completions.create, for models with a chat template; choice j uses seed + j."""
    completer: Completer = request.app.state.completer
    body = await read_json(request, OpenAIChatRequest)
    include_usage = wants_usage(body)
    request.scope["model"] = completer.text_model(body.model).name
    completion = await completer.begin(_ask(body), terms_of(request, body, whole=not body.stream))
    kind = "chat.completion.chunk" if body.stream else "chat.completion"
    answer = Answer(request, completion, "chatcmpl", kind)
    if body.stream:
        return answer.stream(_deltas(), include_usage=include_usage)
    whole = await Watch(request).whole(completion)
    return answer.whole([_choice(piece) for piece in whole])


def _choice(piece: Piece) -> str:
    message = f'{{"role":"assistant","content":{quote(piece.text)},"refusal":null}}'
    return _wrapped("message", message, piece)


def _deltas() -> Callable[[Piece], Sequence[str]]:
    """Writes the pieces of one answer; each choice begins with its role."""
    begun: set[int] = set()

    def write(piece: Piece) -> Sequence[str]:
        content = f'{{"content":{quote(piece.text)}}}' if piece.text else "{}"
        delta = _wrapped("delta", content, piece)
        if piece.index in begun:
            return (delta,)
        begun.add(piece.index)
        return _wrapped("delta", '{"role":"assistant","content":""}', Piece(piece.index, "")), delta

    return write


def _wrapped(name: str, content: str, piece: Piece) -> str:
    logprobs = f'{{"content":{quote(_logprobs(piece.scored))},"refusal":null}}' if piece.scored else "null"
    return f'{{"index":{piece.index},"{name}":{content},"logprobs":{logprobs},"finish_reason":{quote(piece.finish)}}}'


def _logprobs(scored: Sequence[Scored]) -> list[dict[str, object]]:
    return [{**_token(one), "top_logprobs": [_token(other) for other in one.top or ()]} for one in scored]


def _token(one: Likely) -> dict[str, object]:
    return {"token": one.token, "logprob": one.logprob, "bytes": list(one.raw)}


def _ask(body: OpenAIChatRequest) -> Ask:
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidField("top_logprobs: has no meaning without logprobs", field="top_logprobs")
    newer, older = body.max_completion_tokens, body.max_tokens
    if newer is not None and older is not None and newer != older:
        said = "max_completion_tokens: not together with another max_tokens"
        raise InvalidField(said, field="max_completion_tokens")
    return Ask(
        model=body.model,
        prompts=[Conversation(tuple(map(_turn, body.messages)))],
        n=body.n or 1,
        max_tokens=older if newer is None else newer,
        seed=body.seed,
        sampling=sampling_of(body, (body.top_logprobs or 0) if body.logprobs else None),
        usual_tokens=USUAL_TOKENS,
        limit_field="max_tokens" if newer is None else "max_completion_tokens",
        **ends_of(body),
    )


def _turn(message: Message) -> Turn:
    """A message as templates know them: developer is OpenAI's newer word for system."""
    role = "system" if message.role == "developer" else message.role
    return Turn(role, message.text, message.name)
