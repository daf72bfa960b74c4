"""Bodies of the routes that take a picture: encode and reconstruct."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, Strict

from app.schemas.body import Body, Name
from app.schemas.images import LabelIndex, LabelName, Scale


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
