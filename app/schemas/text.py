"""Bodies of `POST /v1/text/complete`, and the limits that all text routes share."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, Strict, StrictBool, model_validator
from pydantic_core import PydanticCustomError

from app.schemas.body import Body, Name, Seed

MAX_CHOICES = 64
MAX_TOP_K = 1_000_000  # above any vocabulary
MAX_STOPS = 4
MAX_STOP_LENGTH = 200
MAX_BIASES = 300  # OpenAI's
MAX_STOP_TOKENS = 64
MAX_SCHEMA = 1 << 16  # characters of a JSON schema
MAX_REGEX = 1 << 11

TokenId = Annotated[int, Strict(), Field(ge=0)]
Bias = Annotated[float, Strict(), Field(ge=-100, le=100)]
Temperature = Annotated[float, Strict(), Field(ge=0, le=100)]
StopString = Annotated[str, Strict(), Field(min_length=1, max_length=MAX_STOP_LENGTH)]
Stops = StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)]
StopTokens = Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKENS, fail_fast=True)]
Prompt = Annotated[str, Strict()]
Mass = Annotated[float, Strict(), Field(gt=0, le=1)]
Fraction = Annotated[float, Strict(), Field(ge=0, le=1)]
Penalty = Annotated[float, Strict(), Field(ge=-2, le=2)]
Repetition = Annotated[float, Strict(), Field(ge=0.01, le=10)]
Biases = Annotated[dict[str, Bias], Field(max_length=MAX_BIASES)]
Choices = Annotated[int, Strict(), Field(ge=1, le=MAX_CHOICES)]
MinTokens = Annotated[int, Strict(), Field(ge=0)]
Regex = Annotated[str, Strict(), Field(min_length=1, max_length=MAX_REGEX)]


class JsonSchemaFormat(Body):
    """OpenAI's wrapping of a JSON schema; the schema holds whatever `strict` says."""

    name: Annotated[str, Strict(), Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: Annotated[str, Strict(), Field(max_length=1000)] | None = None
    definition: dict[str, Any] | None = Field(None, alias="schema", description="any object when left out")
    strict: StrictBool | None = None


class ResponseFormat(Body):
    """What a text has to look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = Field(None, description='of type "json_schema", and of no other')

    @model_validator(mode="after")
    def _belongs(self) -> Self:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise PydanticCustomError("json_schema", 'json_schema belongs to type "json_schema", and only there')
        return self


class TextRequest(Body):
    """Body of `POST /v1/text/complete`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "To be, or not", "max_tokens": 40, "temperature": 0.8, "seed": 1}]}
    )

    model: Name | None = Field(None, description="a model of GET /v1/models; the first text model when left out")
    prompt: Prompt | Annotated[list[Prompt], Field(min_length=1, max_length=MAX_CHOICES)] = Field(
        "", description="one text or several; each gets n choices"
    )
    max_tokens: Annotated[int, Strict(), Field(ge=1)] | None = Field(
        None, description="at most so many new tokens; 128, or what fits, when left out"
    )
    min_tokens: MinTokens = Field(0, description="no end of the text, by a token or a string, before so many")
    temperature: Temperature = Field(1.0, description="0 takes the likeliest token each time")
    top_k: Annotated[int, Strict(), Field(ge=0, le=MAX_TOP_K)] = Field(
        0, description="keep so many of the likeliest tokens; 0: all"
    )
    top_p: Mass = Field(1.0, description="keep the likeliest tokens up to this share of the probability")
    min_p: Fraction = Field(0.0, description="drop tokens less likely than this fraction of the likeliest")
    repetition_penalty: Repetition = Field(1.0, description="above 1: tokens seen before become less likely")
    frequency_penalty: Penalty = Field(0.0, description="taken off a token for each time that it was generated")
    presence_penalty: Penalty = Field(0.0, description="taken off a token once it was generated")
    logit_bias: Biases | None = Field(None, description="added to tokens, by id: -100 bans, 100 forces")
    stop: Stops | None = Field(None, description="up to 4 strings; the text ends before the first that appears")
    stop_token_ids: StopTokens | None = Field(None, description="further tokens that end the text")
    ignore_eos: StrictBool = Field(False, description="the model's own end of text does not end it")
    response_format: ResponseFormat | None = Field(None, description="JSON, or JSON of a schema")
    regex: Regex | None = Field(None, description="the whole text matches this")
    seed: Seed | None = Field(None, description="choice j of the request uses seed + j; drawn when left out")
    n: Choices = Field(1, description="choices for each prompt")
    stream: StrictBool = Field(False, description="server-sent events instead of one JSON answer")


class Usage(BaseModel):
    """Tokens read and generated."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TextChoice(BaseModel):
    """One continuation."""

    index: int = Field(description="prompt x n + j")
    text: str
    finish_reason: Literal["stop", "length"]
    seed: int
    usage: Usage


class TextAnswer(BaseModel):
    """Answer of `POST /v1/text/complete` without `stream`."""

    model: str = Field(description="name@digest")
    choices: list[TextChoice]
    usage: Usage
