"""Bodies of `POST /v1/audio/generate` and of OpenAI's `POST /v1/audio/speech`."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, Strict, StrictBool, StrictStr

from app.schemas.body import Body, Name, Seed
from app.schemas.text import MAX_TOP_K, Mass, Temperature

MAX_TRANSCRIPT = 4096  # characters
MAX_SECONDS = 3600.0

Transcript = Annotated[str, Strict(), Field(min_length=1, max_length=MAX_TRANSCRIPT)]
Speed = Annotated[float, Strict(), Field(ge=0.25, le=4.0)]


class AudioRequest(Body):
    """Body of `POST /v1/audio/generate`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "please hold the line", "seed": 1}]})

    prompt: Transcript = Field(description="what to say, in letters that the model knows")
    model: Name | None = Field(None, description="a model of GET /v1/models; the first speech model when left out")
    seconds: Annotated[float, Strict(), Field(gt=0, le=MAX_SECONDS)] | None = Field(
        None, description="how long; by the length of the prompt when left out"
    )
    speed: Speed | None = Field(None, description="how fast, beside the model's own pace; not with `seconds`")
    seed: Seed | None = Field(None, description="drawn when left out, and told in X-Genserve-Seed")
    temperature: Temperature | None = Field(None, description="of each sample; the model's own when left out")
    top_k: Annotated[int, Strict(), Field(ge=0, le=MAX_TOP_K)] = Field(
        0, description="keep so many of the likeliest levels; 0: all"
    )
    top_p: Mass = Field(1.0, description="keep the likeliest levels up to this share of the probability")
    stream: StrictBool = Field(False, description="send the sound while it is made")
    prompt_in_provenance: StrictBool = Field(False, description="write the prompt into the file; left out otherwise")


class OpenAISpeechRequest(Body):
    """Body of `POST /v1/audio/speech`; fields that would change the sound and can't are refused."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": "please hold the line", "voice": "default"}]})

    input: Transcript = Field(description="what to say, in letters that the model knows")
    model: Name | None = None
    voice: Literal["default"] | None = Field(None, description="a model has one voice")
    speed: Speed | None = None
    seed: Seed | None = Field(None, description="not in OpenAI's API; send it through extra_body")
    response_format: Literal["wav"] | None = Field(None, description="WAV also when left out")
    stream_format: Literal["audio"] | None = Field(None, description="send the sound while it is made")
    instructions: Annotated[StrictStr, Field(max_length=0)] | None = None
