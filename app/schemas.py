"""Request and response bodies: their fields, limits and examples."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, StrictBool, StrictStr

from app.latents import MAX_SEED

MAX_IMAGES = 64
MAX_SCALE = 64
MAX_LABEL_LENGTH = 200

Seed = Annotated[int, Strict(), Field(ge=0, le=MAX_SEED)]
Count = Annotated[int, Strict(), Field(ge=1, le=MAX_IMAGES)]
LabelIndex = Annotated[int, Strict(), Field(ge=0)]
LabelName = Annotated[str, Strict(), Field(max_length=MAX_LABEL_LENGTH)]
Name = Annotated[str, Strict(), Field(min_length=1, max_length=64)]


class Body(BaseModel):
    """Base of all request bodies: unknown fields are errors, and so are NaN and infinity."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Interpolation(Body):
    """A walk on the sphere between the latents of two seeds."""

    from_seed: Seed
    to_seed: Seed
    steps: Annotated[int, Strict(), Field(ge=2, le=MAX_IMAGES)] = 8


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
    scale: Annotated[int, Strict(), Field(ge=1, le=MAX_SCALE)] = Field(1, description="enlarges by whole pixels")
    format: Literal["png", "webp"] | None = Field(None, description="by Accept, else png, when left out")


class ImageItem(BaseModel):
    """One picture of a JSON answer."""

    seed: int | None = Field(description="makes this picture again alone; null for latents and interpolations")
    label: int | None = Field(description="class index; null for an unconditional model")
    media_type: str
    base64: str


class ImageAnswer(BaseModel):
    """Answer of `POST /v1/images/generate` with `Accept: application/json`."""

    model: str = Field(description="name@digest")
    seed: int
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

    status: Literal["alive", "ready", "loading", "draining", "failed"]
    detail: StrictStr | None = None
    models: dict[str, StrictBool] | None = Field(None, description="whether each model is served")
