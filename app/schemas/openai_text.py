"""What the bodies of OpenAI's two text routes share."""

from typing import Annotated, Literal

from pydantic import Field, Strict, StrictBool, StrictStr

from app.schemas.body import Body, Name, Seed
from app.schemas.text import (
    MAX_TOP_K,
    Biases,
    Choices,
    Fraction,
    Mass,
    MinTokens,
    Penalty,
    Regex,
    Repetition,
    ResponseFormat,
    Stops,
    StopTokens,
)


class StreamOptions(Body):
    """OpenAI's options of a stream."""

    include_usage: StrictBool | None = None
    include_obfuscation: Literal[False] | None = None


class OpenAITextRequest(Body):
    """What the bodies of OpenAI's two text routes share; fields that would change the text and can't are refused."""

    model: Name | None = None
    temperature: Annotated[float, Strict(), Field(ge=0, le=2)] | None = None
    top_p: Mass | None = None
    n: Choices | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    stop: Stops | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Biases | None = None
    seed: Seed | None = None
    response_format: ResponseFormat | None = None
    top_k: Annotated[int, Strict(), Field(ge=-1, le=MAX_TOP_K)] | None = Field(
        None, description="this and the next six are not in OpenAI's API; send them through extra_body"
    )
    min_p: Fraction | None = None
    repetition_penalty: Repetition | None = None
    stop_token_ids: StopTokens | None = None
    min_tokens: MinTokens | None = None
    ignore_eos: StrictBool | None = None
    regex: Regex | None = None
    user: StrictStr | None = Field(None, description="accepted and ignored")
