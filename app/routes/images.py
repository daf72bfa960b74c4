"""`POST /v1/images/generate`: pictures as a file, an archive or JSON."""

from typing import Any

from fastapi import APIRouter, Request, Response

from app import animation
from app.animation import AnimationFormat
from app.codecs import MEDIA_TYPES, ImageFormat
from app.generated import Packing
from app.routes import problems
from app.routes.accept import accepted, negotiate
from app.routes.body import read_json, request_body
from app.routes.connection import Watch
from app.routes.reproduce import reproduction_headers
from app.routes.terms import terms_of
from app.schemas.images import ImageAnswer, ImageRequest
from app.service import Service

ZIP, JSON = "application/zip", "application/json"

PICTURES: dict[str, Any] = {  # what an answer may be, for the OpenAPI document
    "image/png": {"schema": {"type": "string", "format": "binary"}},
    "image/webp": {"schema": {"type": "string", "format": "binary"}},
    ZIP: {"schema": {"type": "string", "format": "binary"}},
    JSON: {"schema": {"$ref": f"#/components/schemas/{ImageAnswer.__name__}"}},
}

router = APIRouter()


def _offers(image_format: ImageFormat | AnimationFormat | None) -> tuple[str, ...]:
    if image_format == "webp-animation" or image_format == "apng":
        return animation.MEDIA_TYPES[image_format], JSON  # the frames each by itself are what other formats give
    images = (MEDIA_TYPES[image_format],) if image_format else tuple(MEDIA_TYPES.values())
    return *images, ZIP, JSON


def wrapping(request: Request, asked: ImageFormat | AnimationFormat | None) -> tuple[str, ImageFormat, Packing]:
    """The media type of the answer, by Accept and the format asked for; the format of its pictures, and their packing.

    An animation's format is part of what is planned, and the second says nothing.

    Raises:
        NotAcceptable: nothing that Accept names can be given.
    """
    media_type = negotiate(accepted(request.scope), _offers(asked))
    image_format: ImageFormat = "webp" if asked == "webp" or media_type == MEDIA_TYPES["webp"] else "png"
    packing: Packing = {ZIP: "zip", JSON: "json"}.get(media_type, "image")  # type: ignore[assignment]
    return media_type, image_format, packing


@router.post(
    "/v1/images/generate",
    summary="Generate pictures",
    response_class=Response,
    responses={
        200: {
            "description": "One picture, a grid of n or an animation; by Accept a ZIP archive or JSON instead.",
            "content": {**PICTURES, "image/apng": PICTURES["image/png"]},
        },
        **problems.responses(400, 404, 406, 413, 415, 429, 500, 503, 504),
    },
    openapi_extra=request_body(ImageRequest),
)
async def generate(request: Request) -> Response:
    """`{}` gives one picture of the first model from a drawn seed; image j of n uses seed + j."""
    service: Service = request.app.state.service
    body = await read_json(request, ImageRequest)
    media_type, image_format, packing = wrapping(request, body.format)
    request.scope["model"] = service.picture_model(body.model, body.prompt).name
    generated = await service.generate(body, image_format, Watch(request), terms_of(request, body))
    content = await service.encode(generated, packing)
    return Response(
        content, headers=reproduction_headers(request, generated.plan.info, generated.plan.seed), media_type=media_type
    )
