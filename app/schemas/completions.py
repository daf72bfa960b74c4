"""Bodies of `POST /v1/completions`: text in OpenAI's shape."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, Strict, StrictBool

from app.schemas.openai_text import OpenAITextRequest
from app.schemas.text import MAX_CHOICES, Prompt, TokenId, Usage

TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]  # one error, not one for each of many


class OpenAICompletionRequest(OpenAITextRequest):
    """Body of `POST /v1/completions`."""

    prompt: (
        Prompt
        | Annotated[list[Prompt], Field(min_length=1, max_length=MAX_CHOICES)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
        | None
    ) = None
    max_tokens: Annotated[int, Strict(), Field(ge=0)] | None = None
    logprobs: Annotated[int, Strict(), Field(ge=0, le=5)] | None = None
    echo: StrictBool | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None


class OpenAILogprobs(BaseModel):
    """Log probabilities of a choice, in OpenAI's shape; null for the first token of an echoed prompt."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class OpenAICompletionChoice(BaseModel):
    """One continuation, or a piece of one, in OpenAI's shape."""

    index: int
    text: str
    logprobs: OpenAILogprobs | None
    finish_reason: Literal["stop", "length"] | None


class OpenAICompletion(BaseModel):
    """Answer of `POST /v1/completions`, and each event of its stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str = Field(description="of model and runtime; the same one gives the same text for a seed")
    choices: list[OpenAICompletionChoice]
    usage: Usage | None = None
