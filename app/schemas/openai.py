"""Bodies of `POST /v1/images/generations`: pictures in OpenAI's shape."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StrictStr

from app.schemas.body import Name, Seed
from app.schemas.captions import Caption, CaptionFields
from app.schemas.images import Count


class OpenAIImageRequest(CaptionFields):
    """Body of `POST /v1/images/generations`; fields that would change the picture and can't are refused."""

    model: Name | None = None
    prompt: Caption = Field("", description='a caption, for a model that draws them; else "" or the name of a label')
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
