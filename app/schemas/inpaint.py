"""Bodies of `POST /v1/images/inpaint`."""

from typing import Annotated, Literal

from pydantic import Field, Strict

from app.schemas.body import Body, Name, Seed
from app.schemas.encode import UploadedFile
from app.schemas.images import MAX_STEPS, LabelIndex, LabelName, Scale


class InpaintQuery(Body):
    """What is said beside a picture with a hole: in the query, or in the JSON body that holds it."""

    model: Name | None = Field(None, description="the first model that inpaints when left out")
    label: LabelIndex | LabelName | None = Field(
        None, description="what the picture shows, by index or name; the one that fits best when left out"
    )
    seed: Seed | None = Field(None, description="of the latents to begin with; drawn when left out")
    steps: Annotated[int, Strict(), Field(ge=1, le=MAX_STEPS)] = Field(100, description="of the search")
    scale: Scale = Field(1, description="enlarges by whole pixels")
    format: Literal["png", "webp"] | None = Field(None, description="by Accept, else png, when left out")


class InpaintRequest(InpaintQuery):
    """JSON body of `POST /v1/images/inpaint`."""

    image: UploadedFile
    mask: UploadedFile | None = Field(
        None, description="of the picture's size; white is to be filled. Where the picture is transparent when left out"
    )
