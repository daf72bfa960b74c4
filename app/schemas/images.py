"""Bodies of `POST /v1/images/generate`: what may be asked of a latent model, and what it answers."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict

from app.engine.jobs import MAX_STYLES
from app.schemas.body import Body, Name, Seed
from app.schemas.captions import Caption, CaptionFields

MAX_IMAGES = 64
MAX_SCALE = 64
MAX_LABEL_LENGTH = 200
MAX_PARTS = 16
MAX_WEIGHT = 1000.0
MAX_CONTROLS = 64
MAX_STEPS = 200  # of what improves latents by gradients: each costs tens of pictures
MIN_DURATION_MS = 20  # below that, what shows pictures slows them down
MAX_DURATION_MS = 10_000

Count = Annotated[int, Strict(), Field(ge=1, le=MAX_IMAGES)]
LabelIndex = Annotated[int, Strict(), Field(ge=0)]
LabelName = Annotated[str, Strict(), Field(max_length=MAX_LABEL_LENGTH)]
Scale = Annotated[int, Strict(), Field(ge=1, le=MAX_SCALE)]
ControlName = Annotated[str, Strict(), Field(min_length=1, max_length=64)]
Controls = Annotated[dict[ControlName, Annotated[float, Strict()]], Field(max_length=MAX_CONTROLS)]


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


class ImageRequest(CaptionFields):
    """Body of `POST /v1/images/generate`; every field may be left out."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {},
                {"n": 4, "seed": 7, "label": "Sneaker", "scale": 4},
                {"interpolate": {"from_seed": 1, "to_seed": 2, "steps": 16}, "format": "webp-animation", "scale": 8},
            ]
        }
    )

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
    prompt: Caption | None = Field(
        None, description="what to draw, in words that the model knows; for models that draw captions"
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
    controls: Controls | None = Field(
        None, description="numbers of all latents by name; for models whose card has controls"
    )
    sampler: Literal["mcmc"] | None = Field(
        None, description="mcmc moves each latent to what the model's critic takes for real; for cards with a critic"
    )
    steps: Annotated[int, Strict(), Field(ge=1, le=MAX_STEPS)] | None = Field(
        None, description="of the sampler; 25 when left out"
    )
    scale: Scale = Field(1, description="enlarges by whole pixels")
    format: Literal["png", "webp", "webp-animation", "apng"] | None = Field(
        None, description="by Accept, else png, when left out; the animations show a walk, beside interpolate alone"
    )
    duration_ms: Annotated[int, Strict(), Field(ge=MIN_DURATION_MS, le=MAX_DURATION_MS)] | None = Field(
        None, description="of each frame of an animation; 100 when left out"
    )
    loop: Literal["forever", "boomerang", "once"] | None = Field(
        None, description="of an animation: boomerang goes back the way that it came, and on; forever when left out"
    )


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
