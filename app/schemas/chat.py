"""Bodies of `POST /v1/chat/completions`: conversations in OpenAI's shape."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, StrictBool, StrictStr
from pydantic_core import PydanticCustomError

from app.schemas.body import Body, Name
from app.schemas.openai_text import OpenAITextRequest
from app.schemas.text import Prompt, Usage

MAX_MESSAGES = 1024
MAX_METADATA = 16  # OpenAI's


def _unsupported(value: Any) -> Any:
    if value:
        raise PydanticCustomError("unsupported", "not supported")
    return value


def _only_text(value: Any) -> Any:
    if value != "text":
        raise PydanticCustomError("unsupported", "parts of other types than text are not supported")
    return value


Nothing = Annotated[list[Any], Field(max_length=0), BeforeValidator(_unsupported)]
Never = Annotated[None, BeforeValidator(_unsupported)]
Metadata = Annotated[dict[str, StrictStr], Field(max_length=MAX_METADATA)]


class TextPart(Body):
    """A part of a message; there is no other kind."""

    type: Annotated[Literal["text"], BeforeValidator(_only_text)]
    text: Prompt


class Message(Body):
    """One turn of a conversation; what an answer's message holds may come back with it."""

    role: Literal["system", "developer", "user", "assistant"] = Field(description="developer is the same as system")
    content: Prompt | Annotated[list[TextPart], Field(min_length=1, fail_fast=True)]
    name: Name | None = None
    refusal: Never = None
    tool_calls: Nothing | None = None
    function_call: Never = None
    annotations: Nothing | None = None
    audio: Never = None

    @property
    def text(self) -> str:
        """What was said."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class OpenAIChatRequest(OpenAITextRequest):
    """Body of `POST /v1/chat/completions`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 40}]}
    )

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_tokens: Annotated[int, Strict(), Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Strict(), Field(ge=1)] | None = Field(
        None, description="the newer name of max_tokens; 1,024, or what fits, when left out"
    )
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[int, Strict(), Field(ge=0, le=20)] | None = None
    tools: Nothing | None = None
    tool_choice: Literal["none"] | None = None
    functions: Nothing | None = None
    function_call: Literal["none"] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    audio: Never = None
    prediction: Never = None
    web_search_options: Never = None
    reasoning_effort: Literal["none"] | None = None
    verbosity: Literal["medium"] | None = None
    store: Literal[False] | None = None
    parallel_tool_calls: StrictBool | None = Field(None, description="this and the rest are accepted and ignored")
    metadata: Metadata | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: StrictStr | None = None
    prompt_cache_key: StrictStr | None = None


class OpenAITopLogprob(BaseModel):
    """A token with its log probability."""

    token: str
    logprob: float
    bytes: list[int]


class OpenAITokenLogprob(OpenAITopLogprob):
    """A token of an answer, with the likeliest ones in its place."""

    top_logprobs: list[OpenAITopLogprob]


class OpenAIChatLogprobs(BaseModel):
    """Log probabilities of an answer, or of a piece of one."""

    content: list[OpenAITokenLogprob]
    refusal: None = None


class OpenAIChatMessage(BaseModel):
    """What the model says."""

    role: Literal["assistant"]
    content: str
    refusal: None = None


class OpenAIChatChoice(BaseModel):
    """One answer."""

    index: int
    message: OpenAIChatMessage
    logprobs: OpenAIChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class OpenAIChatCompletion(BaseModel):
    """Answer of `POST /v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[OpenAIChatChoice]
    usage: Usage


class OpenAIChatDelta(BaseModel):
    """What a piece adds to the message."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class OpenAIChatPiece(BaseModel):
    """A piece of one answer."""

    index: int
    delta: OpenAIChatDelta
    logprobs: OpenAIChatLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class OpenAIChatChunk(BaseModel):
    """One event of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[OpenAIChatPiece]
    usage: Usage | None = None
