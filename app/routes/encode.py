"""`POST /v1/images/encode` and `POST /v1/images/reconstruct`: pictures in, latents or pictures out."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.plan import digest
from app.routes import problems
from app.routes.accept import accepted, negotiate
from app.routes.connection import Watch
from app.routes.images import JSON, PICTURES, wrapping
from app.routes.reproduce import reproduction_headers
from app.routes.terms import terms_of
from app.routes.upload import read_upload, upload_body
from app.schemas.encode import (
    EncodeAnswer,
    EncodeQuery,
    EncodeRequest,
    ReconstructQuery,
    ReconstructRequest,
    UploadedPicture,
)
from app.service import Encoded, Service
from app.upload import Reading

STATUSES = (400, 404, 406, 413, 415, 429, 500, 503, 504)

router = APIRouter()


@router.post(
    "/v1/images/encode",
    summary="Turn a picture into latents",
    response_model=EncodeAnswer,
    responses=problems.responses(*STATUSES),
    openapi_extra=upload_body(EncodeQuery, EncodeRequest),
)
async def encode(request: Request) -> JSONResponse:
    """The latents of a PNG, JPEG or WebP picture, as generate takes them; for models whose card says `encodes`."""
    service: Service = request.app.state.service
    negotiate(accepted(request.scope), (JSON,))
    asked, content = await read_upload(request, EncodeQuery, EncodeRequest)
    request.scope["model"] = service.encoding_model(asked.model).name
    encoded = await service.to_latents(asked, content, Watch(request), terms_of(request, asked, content))
    headers = reproduction_headers(request, encoded.info.as_encoder, None)
    return JSONResponse(_answer(encoded).model_dump(), headers=headers)


@router.post(
    "/v1/images/reconstruct",
    summary="Turn a picture into latents and back",
    response_class=Response,
    responses={
        200: {"description": "The picture that the model makes of the latents.", "content": PICTURES},
        **problems.responses(*STATUSES),
    },
    openapi_extra=upload_body(ReconstructQuery, ReconstructRequest),
)
async def reconstruct(request: Request) -> Response:
    """What encode and generate make of a picture, one after the other; the bytes are those that generate gives."""
    service: Service = request.app.state.service
    asked, content = await read_upload(request, ReconstructQuery, ReconstructRequest)
    media_type, image_format, packing = wrapping(request, asked.format)
    request.scope["model"] = service.encoding_model(asked.model).name
    terms = terms_of(request, asked, content)
    generated = await service.reconstruct(asked, content, image_format, Watch(request), terms)
    body = await service.encode(generated, packing)
    headers = reproduction_headers(request, generated.plan.info, None)
    return Response(body, headers=headers, media_type=media_type)


def _answer(encoded: Encoded) -> EncodeAnswer:
    return EncodeAnswer(
        model=encoded.info.identity,
        label=encoded.label,
        latents=encoded.latents.tolist(),
        latents_sha256=digest(encoded.latents),
        picture=_picture(encoded.reading),
    )


def _picture(reading: Reading) -> UploadedPicture:
    return UploadedPicture(
        format=reading.header.format,
        width=reading.header.width,
        height=reading.header.height,
        orientation=reading.orientation,
        flattened=reading.flattened,
        grey=reading.grey,
        crop=reading.crop,
        resized=reading.resized,
    )
