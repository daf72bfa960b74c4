"""Request and response bodies: their fields, limits and examples."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StrictBool,
    StrictStr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from app.engine.jobs import MAX_STYLES
from app.latents import MAX_SEED

MAX_IMAGES = 64
MAX_SCALE = 64
MAX_LABEL_LENGTH = 200
MAX_PARTS = 16
MAX_WEIGHT = 1000.0
MAX_CHOICES = 64
MAX_TOP_K = 1_000_000  # above any vocabulary
MAX_STOPS = 4
MAX_STOP_LENGTH = 200
MAX_BIASES = 300  # OpenAI's
MAX_STOP_TOKENS = 64
MAX_SCHEMA = 1 << 16  # characters of a JSON schema
MAX_REGEX = 1 << 11
MAX_MESSAGES = 1024
MAX_METADATA = 16  # OpenAI's

Seed = Annotated[int, Strict(), Field(ge=0, le=MAX_SEED)]
Count = Annotated[int, Strict(), Field(ge=1, le=MAX_IMAGES)]
LabelIndex = Annotated[int, Strict(), Field(ge=0)]
LabelName = Annotated[str, Strict(), Field(max_length=MAX_LABEL_LENGTH)]
Scale = Annotated[int, Strict(), Field(ge=1, le=MAX_SCALE)]
TokenId = Annotated[int, Strict(), Field(ge=0)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]  # one error, not one for each of many
Bias = Annotated[float, Strict(), Field(ge=-100, le=100)]
Name = Annotated[str, Strict(), Field(min_length=1, max_length=64)]


class Body(BaseModel):
    """Base of all request bodies: unknown fields, NaN and infinity are errors; null is as good as left out.

    Attributes:
        names: of the fields, as clients write them.
    """

    names: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        names = cls.names
        known = {name: value for name, value in data.items() if value is not None and name in names}
        stranger = next((name for name in data if name not in names), None)
        return known if stranger is None else {**known, stranger: data[stranger]}  # one is enough to refuse

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls.names = frozenset(field.alias or name for name, field in cls.model_fields.items())


class Interpolation(Body):
    """A walk on the sphere between the latents of two seeds."""

    from_seed: Seed
    to_seed: Seed
    steps: Annotated[int, Strict(), Field(ge=2, le=MAX_IMAGES)] = 8


class MixPart(Body):
    """One latent of a mix: that of a seed, or an explicit one."""

    seed: Seed | None = None
    latents: list[Any] | None = Field(None, description="in the model's latent_shape")
    weight: Annotated[float, Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT, strict=True)] = 1.0


class ImageRequest(Body):
    """Body of `POST /v1/images/generate`; every field may be left out."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"n": 4, "seed": 7, "label": "Sneaker", "scale": 4}]})

    model: Name | None = Field(None, description="a model of GET /v1/models; the first picture model when left out")
    n: Count | None = Field(None, description="how many pictures; 1 when left out; image j uses seed + j")
    seed: Seed | None = Field(None, description="drawn when left out, and told in X-Genserve-Seed")
    label: LabelIndex | LabelName | None = Field(
        None, description="class by index or name; drawn from each seed when left out"
    )
    truncation: Annotated[float, Field(gt=0, le=1, strict=True)] | None = Field(
        None, description="scales the latents; below 1: more typical, less diverse pictures"
    )
    latents: list[Any] | None = Field(
        None, description="one explicit latent, or a list of them, instead of seeds; label 0 when none is given"
    )
    interpolate: Interpolation | None = Field(None, description="a walk between two seeds instead of n pictures")
    mix: Annotated[list[MixPart], Field(min_length=2, max_length=MAX_PARTS)] | None = Field(
        None, description="one picture of several latents' mean by weights; the label of the first when none is given"
    )
    style_seed: Seed | None = Field(
        None, description="of the finer styles of all pictures; for models whose card has styles"
    )
    style_from: Annotated[int, Strict(), Field(ge=1, lt=MAX_STYLES)] | None = Field(
        None, description="the first style that is style_seed's, counted from 0; the middle one when left out"
    )
    scale: Scale = Field(1, description="enlarges by whole pixels")
    format: Literal["png", "webp"] | None = Field(None, description="by Accept, else png, when left out")


class EncodeQuery(Body):
    """What is said beside an uploaded picture: in the query, or in the JSON body that holds it."""

    model: Name | None = Field(None, description="the first model that encodes when left out")
    label: LabelIndex | LabelName | None = Field(
        None, description="what the picture shows, by index or name; a conditional model has to be told"
    )


class ReconstructQuery(EncodeQuery):
    """The same for `POST /v1/images/reconstruct`."""

    target_label: LabelIndex | LabelName | None = Field(None, description="make a picture of this class of it instead")
    scale: Scale = Field(1, description="enlarges by whole pixels")
    format: Literal["png", "webp"] | None = Field(None, description="by Accept, else png, when left out")


UploadedFile = Annotated[str, Strict(), Field(min_length=1, description="PNG, JPEG or WebP: base64, or a data: URL")]


class EncodeRequest(EncodeQuery):
    """JSON body of `POST /v1/images/encode`."""

    image: UploadedFile


class ReconstructRequest(ReconstructQuery):
    """JSON body of `POST /v1/images/reconstruct`."""

    image: UploadedFile


class UploadedPicture(BaseModel):
    """What came, and what was done to it."""

    format: Literal["png", "jpeg", "webp"]
    width: int = Field(description="of the file, as it is stored")
    height: int
    orientation: int = Field(description="of its EXIF data, undone; 1 when it was upright")
    flattened: bool = Field(description="its transparency was replaced by black")
    crop: tuple[int, int, int, int] | None = Field(
        description="left, top, right, bottom of what was kept of the stored picture; null for all of it"
    )
    resized: bool
    grey: bool = Field(description="its colours were turned into grey (Rec. 601 luma)")


class EncodeAnswer(BaseModel):
    """Answer of `POST /v1/images/encode`."""

    model: str = Field(description="name@digest")
    label: int | None = Field(description="class index; null for an unconditional model")
    latents: list[Any] = Field(description="in the model's latent_shape, as generate takes them")
    latents_sha256: str = Field(description="by which pictures made of these latents name them")
    picture: UploadedPicture


class ImageItem(BaseModel):
    """One picture of a JSON answer."""

    seed: int | None = Field(description="makes this picture again alone; null for latents and interpolations")
    label: int | None = Field(description="class index; null for an unconditional model")
    media_type: str
    base64: str


class ImageAnswer(BaseModel):
    """Answer of `POST /v1/images/generate` with `Accept: application/json`."""

    model: str = Field(description="name@digest")
    seed: int | None = Field(description="of the first picture; null for explicit latents")
    images: list[ImageItem]


class OpenAIImageRequest(Body):
    """Body of `POST /v1/images/generations`; fields that would change the picture and can't are refused."""

    model: Name | None = None
    prompt: LabelName = Field("", description='"" or the name of a label')
    n: Count | None = None
    size: Annotated[StrictStr, Field(max_length=16)] | None = Field(
        None, description='"auto" or the model\'s own size, or a whole multiple of it such as "112x112"'
    )
    seed: Seed | None = Field(None, description="not in OpenAI's API; send it through extra_body")
    response_format: Literal["b64_json"] | None = None
    output_format: Literal["png", "webp"] | None = None
    quality: Literal["auto", "standard"] | None = None
    background: Literal["auto"] | None = None
    moderation: Literal["auto"] | None = None
    stream: Literal[False] | None = None
    partial_images: Literal[0] | None = None
    output_compression: Literal[100] | None = None
    user: StrictStr | None = Field(None, description="accepted and ignored")


class OpenAIImageItem(BaseModel):
    """One picture in OpenAI's shape."""

    b64_json: str


class OpenAIImageAnswer(BaseModel):
    """Answer of `POST /v1/images/generations`."""

    created: int
    data: list[OpenAIImageItem]
    output_format: Literal["png", "webp"]
    size: str


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


class ModelObject(BaseModel):
    """One model in OpenAI's shape, with its card under `genserve`."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["genserve"] = "genserve"
    genserve: dict[str, Any]


class ModelList(BaseModel):
    """All models in OpenAI's shape."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class Problem(BaseModel):
    """An error of a native route (RFC 9457)."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    field: str | None = None
    request_id: str | None = None


class OpenAIErrorDetail(BaseModel):
    """The inside of `OpenAIError`."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(BaseModel):
    """An error of an OpenAI-compatible route."""

    error: OpenAIErrorDetail


class Health(BaseModel):
    """Answer of the health routes."""

    status: Literal["alive", "ready", "loading", "restarting", "unresponsive", "draining", "failed"]
    detail: StrictStr | None = None
    models: dict[str, StrictBool] | None = Field(None, description="whether each model is served")
