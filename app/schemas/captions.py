"""What may be said beside a caption, on both routes that draw one."""

from typing import Annotated

from pydantic import Field, Strict, StrictBool

from app.schemas.body import Body

MAX_PROMPT = 1000  # characters
MAX_GUIDANCE = 20.0
MAX_TEMPERATURE = 100.0
MAX_CODES = 1_000_000  # above any vocabulary
MAX_CANDIDATES = 8

Caption = Annotated[str, Strict(), Field(max_length=MAX_PROMPT)]


class CaptionFields(Body):
    """Fields that belong to a caption; for models that draw them."""

    guidance: Annotated[float, Strict(), Field(ge=0, le=MAX_GUIDANCE)] | None = Field(
        None, description="how closely to follow the prompt: 1 as learnt, 0 not at all; the model's own when left out"
    )
    temperature: Annotated[float, Strict(), Field(ge=0, le=MAX_TEMPERATURE)] | None = Field(
        None, description="of the codes that a picture is made of; the model's own when left out"
    )
    top_k: Annotated[int, Strict(), Field(ge=0, le=MAX_CODES)] | None = Field(
        None, description="keep so many of the likeliest codes; 0: all"
    )
    top_p: Annotated[float, Strict(), Field(gt=0, le=1)] | None = Field(
        None, description="keep the likeliest codes up to this share of the probability"
    )
    candidates: Annotated[int, Strict(), Field(ge=1, le=MAX_CANDIDATES)] | None = Field(
        None, description="make so many for each picture, and keep the one that the prompt makes likeliest"
    )
    prompt_in_provenance: StrictBool | None = Field(
        None, description="write the prompt into the picture's provenance; it is left out otherwise"
    )
