"""Reads a picture that somebody sends: as the body itself, or as base64 within a JSON body."""

import base64
import binascii
import re
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError

from app.errors import InvalidField, UnsupportedMediaType
from app.routes.body import as_own_error, media_type_of, read_bytes, read_json, request_body
from app.schemas.body import Body
from app.schemas.encode import EncodeRequest, ReconstructRequest

MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp")
ANY_BYTES = "application/octet-stream"
DATA_URL = re.compile(r"\s*data:[^,]{0,200};base64,", re.IGNORECASE)  # RFC 2397: type and parameters may be there
WHITE = str.maketrans("", "", "\r\n\t ")  # base64 is often broken into lines
NUMBER = re.compile(r"[0-9]{1,16}")
NUMBERS = ("label", "target_label", "scale", "seed", "steps")  # fields of a query that may be numbers

QueryT = TypeVar("QueryT", bound=Body)


def upload_body(query: type[Body], body: type[Body]) -> dict[str, Any]:
    """The OpenAPI entry of what `read_upload` reads."""
    entry = request_body(body)
    binary = {"schema": {"type": "string", "format": "binary"}}
    entry["requestBody"]["content"] |= dict.fromkeys((*MEDIA_TYPES, ANY_BYTES), binary)
    fields = query.model_json_schema()["properties"].items()
    said = " (beside a picture as the body)"
    entry["parameters"] = [
        {"name": name, "in": "query", "schema": field, "description": field.get("description", "") + said}
        for name, field in fields
    ]
    return entry


async def read_upload(
    request: Request, query: type[QueryT], body: type[EncodeRequest] | type[ReconstructRequest]
) -> tuple[QueryT, bytes]:
    """What was asked for, and the file.

    Raises:
        UnsupportedMediaType: the body is neither JSON nor declared as a picture.
        BodyTooLarge, InvalidJSON, UnknownField, InvalidField: what is wrong with it.
        ClientDisconnect: the client left before all of it had come.
    """
    media_type = media_type_of(request)
    if media_type == "application/json":
        found = await read_json(request, body)
        return query(**found.model_dump(exclude={"image"})), from_base64(found.image)
    return from_query(request, query), await read_picture(request)


async def read_picture(request: Request) -> bytes:
    """The body as a file.

    Raises:
        UnsupportedMediaType: it is not declared as a picture.
        BodyTooLarge: it is larger than the operator allows.
        ClientDisconnect: the client left before all of it had come.
    """
    media_type = media_type_of(request)
    if media_type not in (*MEDIA_TYPES, ANY_BYTES):
        wanted = ", ".join((*MEDIA_TYPES, ANY_BYTES))
        raise UnsupportedMediaType(
            f"Content-Type is {media_type or 'missing'!r}; {wanted} or application/json expected"
        )
    return await read_bytes(request)


def from_query(request: Request, query: type[QueryT]) -> QueryT:
    """The fields of a query; a label of digits is an index.

    Raises:
        UnknownField, InvalidField: a field is unknown, wrong, or there twice.
    """
    pairs = request.query_params.multi_items()
    fields: dict[str, Any] = dict(pairs)
    if len(fields) < len(pairs):
        name = next(name for name in fields if len(request.query_params.getlist(name)) > 1)[:100]
        raise InvalidField(f"{name}: is given more than once", field=name)
    for name in NUMBERS:
        if NUMBER.fullmatch(fields.get(name, "")):
            fields[name] = int(fields[name])
    try:
        return query.model_validate(fields)
    except ValidationError as error:
        raise as_own_error(error) from None


def from_base64(text: str, field: str = "image") -> bytes:
    """The file behind base64, with or without a data: URL around it, line breaks allowed.

    Raises:
        InvalidField: it is no base64.
    """
    prefix = DATA_URL.match(text)
    try:
        return base64.b64decode(text[prefix.end() if prefix else 0 :].translate(WHITE), validate=True)
    except (binascii.Error, ValueError):  # the latter for what is not ASCII
        raise InvalidField(f"{field}: must be base64, or a data: URL with base64", field=field) from None
