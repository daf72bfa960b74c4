"""`POST /v1/audio/speech`: OpenAI's route for speech, for the stock client and what is built on it."""

from fastapi import APIRouter, Request, Response

from app.errors import InvalidField
from app.routes import audio, problems
from app.routes.body import read_json, request_body
from app.schemas.audio import AudioRequest, OpenAISpeechRequest

router = APIRouter()


@router.post(
    "/v1/audio/speech",
    summary="Generate speech (OpenAI)",
    response_class=Response,
    responses=audio.SOUND | problems.responses(400, 404, 413, 415, 429, 500, 503, 504, openai=True),
    openapi_extra=request_body(OpenAISpeechRequest),
)
async def speech(request: Request) -> Response:
    """OpenAI's audio.speech.create: a WAV file, whole, or with `stream_format` while it is made."""
    body = await read_json(request, OpenAISpeechRequest)
    native = AudioRequest(
        prompt=body.input,
        model=body.model,
        speed=body.speed,
        seed=body.seed,
        stream=body.stream_format is not None,
    )
    try:
        return await audio.answer(request, native)
    except InvalidField as error:  # this route knows the prompt as input
        field = "input" if error.field == "prompt" else error.field
        raise InvalidField(error.detail.replace("prompt:", "input:", 1), field=field) from None
