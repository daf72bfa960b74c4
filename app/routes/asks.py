"""What the bodies of the text routes have in common: how to sample, where to stop, what the text has to look like."""

import json
from collections.abc import Mapping
from typing import Any

from app.engine.jobs import Grammar, Sampling
from app.errors import InvalidField
from app.schemas.openai_text import OpenAITextRequest
from app.schemas.text import MAX_SCHEMA, TextRequest

TextBody = TextRequest | OpenAITextRequest


def sampling_of(body: TextBody, logprobs: int | None = None) -> Sampling:
    """How to sample; what is null or left out is neutral.

    Raises:
        InvalidField: a key of `logit_bias` is not a token id.
    """
    return Sampling(
        temperature=_given(body.temperature, 1.0),
        top_k=max(0, body.top_k or 0),
        top_p=_given(body.top_p, 1.0),
        min_p=body.min_p or 0.0,
        repetition_penalty=_given(body.repetition_penalty, 1.0),
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        bias=_bias(body.logit_bias or {}),
        logprobs=logprobs,
    )


def ends_of(body: TextBody) -> dict[str, Any]:
    """The fields of an `Ask` that say how a text ends, and what it has to look like.

    Raises:
        InvalidField: there are two grammars, or one that is too long.
    """
    return {
        "stops": (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        "stop_tokens": tuple(body.stop_token_ids or ()),
        "min_tokens": body.min_tokens or 0,
        "ignore_eos": bool(body.ignore_eos),
        "grammar": _grammar(body),
    }


def wants_usage(body: OpenAITextRequest) -> bool:
    """Whether a stream ends with its usage.

    Raises:
        InvalidField: that is said of an answer that is no stream.
    """
    if body.stream_options is not None and not body.stream:
        raise InvalidField("stream_options: has no meaning without stream", field="stream_options")
    return bool(body.stream_options and body.stream_options.include_usage)


def _given(value: float | None, neutral: float) -> float:
    return neutral if value is None else value


def _grammar(body: TextBody) -> Grammar | None:
    wanted = body.response_format
    if wanted is not None and wanted.type == "text":
        wanted = None
    if body.regex is not None:
        if wanted is not None:
            raise InvalidField("regex: not together with response_format", field="regex")
        return Grammar("regex", body.regex)
    if wanted is None:
        return None
    schema = None if wanted.json_schema is None else wanted.json_schema.definition
    return Grammar("json_object") if schema is None else Grammar("json_schema", _schema_text(schema))


def _schema_text(schema: Mapping[str, Any]) -> str:
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    if len(text) > MAX_SCHEMA:
        said = f"response_format: the schema has {len(text)} characters; the limit is {MAX_SCHEMA}"
        raise InvalidField(said, field="response_format")
    return text


def _bias(given: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    """OpenAI's logit_bias: token ids as strings."""
    wrong = [key for key in given if not (key.isascii() and key.isdigit() and len(key) <= 9 and str(int(key)) == key)]
    if wrong:
        raise InvalidField(f"logit_bias: {wrong[0][:32]!r} is not a token id", field="logit_bias")
    return tuple((int(key), value) for key, value in given.items())
