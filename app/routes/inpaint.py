"""`POST /v1/images/inpaint`: a picture with a hole in, the filled picture out."""

from fastapi import APIRouter, Request, Response

from app.routes import problems
from app.routes.body import media_type_of, read_json
from app.routes.connection import Watch
from app.routes.images import PICTURES, wrapping
from app.routes.reproduce import reproduction_headers
from app.routes.terms import terms_of
from app.routes.upload import from_base64, from_query, read_picture, upload_body
from app.schemas.inpaint import InpaintQuery, InpaintRequest
from app.service import Service

router = APIRouter()


@router.post(
    "/v1/images/inpaint",
    summary="Fill the hole of a picture",
    response_class=Response,
    responses={
        200: {"description": "The picture, in its hole what the model makes of the rest.", "content": PICTURES},
        **problems.responses(400, 404, 406, 413, 415, 429, 500, 503, 504),
    },
    openapi_extra=upload_body(InpaintQuery, InpaintRequest),
)
async def inpaint(request: Request) -> Response:
    """Fills what is white in the mask, or transparent in a picture sent as the body; known pixels stay as they are."""
    service: Service = request.app.state.service
    asked, image, mask = await _read(request)
    media_type, image_format, packing = wrapping(request, asked.format)
    request.scope["model"] = service.inpainting_model(asked.model).name
    terms = terms_of(request, asked, image + (mask or b""))
    generated = await service.inpaint(asked, image, mask, image_format, Watch(request), terms)
    content = await service.encode(generated, packing)
    headers = reproduction_headers(request, generated.plan.info, generated.plan.seed)
    return Response(content, headers=headers, media_type=media_type)


async def _read(request: Request) -> tuple[InpaintQuery, bytes, bytes | None]:
    """What was asked for, the picture, and the mask unless the picture holds it.

    Raises:
        GenserveError: what is wrong with the body, as `read_upload` has it.
    """
    if media_type_of(request) != "application/json":
        return from_query(request, InpaintQuery), await read_picture(request), None
    found = await read_json(request, InpaintRequest)
    mask = None if found.mask is None else from_base64(found.mask, "mask")
    return InpaintQuery(**found.model_dump(exclude={"image", "mask"})), from_base64(found.image), mask
