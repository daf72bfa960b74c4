"""OpenAI-compatible routes, for the stock client and what is built on it."""

import base64
import re
import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from app.codecs import ImageFormat
from app.engine.jobs import ModelInfo
from app.errors import InvalidField
from app.routes import problems
from app.routes.body import read_json, request_body
from app.routes.connection import Watch
from app.routes.reproduce import reproduction_headers
from app.routes.terms import terms_of
from app.schemas.captions import CaptionFields
from app.schemas.images import MAX_SCALE, ImageRequest
from app.schemas.openai import OpenAIImageAnswer, OpenAIImageItem, OpenAIImageRequest
from app.service import Service

SIZE_PATTERN = re.compile(r"([1-9]\d{0,5})x([1-9]\d{0,5})")

router = APIRouter()


@router.post(
    "/v1/images/generations",
    summary="Generate pictures (OpenAI)",
    response_model=OpenAIImageAnswer,
    responses=problems.responses(400, 404, 413, 415, 429, 500, 503, 504, openai=True),
    openapi_extra=request_body(OpenAIImageRequest),
)
async def generations(request: Request) -> JSONResponse:
    """OpenAI's images.generate: the prompt is a caption, or it is empty or names a label; pictures come as b64_json."""
    service: Service = request.app.state.service
    body = await read_json(request, OpenAIImageRequest)
    info = _model(body, service)
    request.scope["model"] = info.name
    scale = _scale(body.size, info)
    image_format: ImageFormat = body.output_format or "png"
    native = ImageRequest(model=info.name, n=body.n, seed=body.seed, scale=scale, **_subject(body, info))
    try:
        generated = await service.generate(native, image_format, Watch(request), terms_of(request, native))
    except InvalidField as error:  # this route knows scale as size
        field = "size" if error.field == "scale" else error.field
        raise InvalidField(error.detail.replace("scale:", "size:", 1), field=field) from None
    files = await service.encode_each(generated)
    answer = OpenAIImageAnswer(
        created=int(time.time()),
        data=[OpenAIImageItem(b64_json=base64.b64encode(content).decode()) for content in files],
        output_format=image_format,
        size=f"{info.image_shape[1] * scale}x{info.image_shape[0] * scale}",
    )
    return JSONResponse(
        answer.model_dump(), headers=reproduction_headers(request, generated.plan.info, generated.plan.seed)
    )


def _model(body: OpenAIImageRequest, service: Service) -> ModelInfo:
    """The model of that name; or the first one, if the prompt means anything to it, else one that draws captions."""
    info = service.picture_model(body.model)
    if body.model is None and _named(body.prompt, info) is None and body.prompt.strip():
        captioned = service.picture_model(None, body.prompt)
        return captioned if captioned.task == "captions" else info
    return info


def _subject(body: OpenAIImageRequest, info: ModelInfo) -> dict[str, Any]:
    """What the prompt says, and what belongs to it, in the words of the native route.

    Raises:
        InvalidField: it says nothing to the model.
    """
    beside = {name: getattr(body, name) for name in CaptionFields.model_fields}
    return beside | ({"prompt": body.prompt} if info.task == "captions" else {"label": _label(body.prompt, info)})


def _named(prompt: str, info: ModelInfo) -> str | None:
    """The label that a prompt names, letter case aside."""
    wanted = prompt.strip().casefold()
    return next((label for label in info.labels if label.casefold() == wanted), None)


def _label(prompt: str, info: ModelInfo) -> str | None:
    """The label that a prompt names, letter case aside.

    Raises:
        InvalidField: the prompt is neither empty nor the name of a label.
    """
    label = _named(prompt, info)
    if label is not None or not prompt.strip():
        return label
    known = ", ".join(info.labels) or "none"
    raise InvalidField(f'prompt: must be "" or the name of a label of {info.name} ({known})', field="prompt")


def _scale(size: str | None, info: ModelInfo) -> int:
    """The enlargement that turns the model's own size into the size asked for.

    Raises:
        InvalidField: the size is not a whole multiple of the model's own.
    """
    if size is None or size == "auto":
        return 1
    height, width, _ = info.image_shape
    match = SIZE_PATTERN.fullmatch(size)
    asked = (int(match[1]), int(match[2])) if match else (0, 0)
    scale = asked[0] // width
    if not 1 <= scale <= MAX_SCALE or asked != (width * scale, height * scale):
        own = f'"{width}x{height}" and whole multiples of it, up to {MAX_SCALE}-fold'
        raise InvalidField(f"size: {info.name} makes {own}", field="size")
    return scale
