"""Reads and checks a body, above all a JSON one: size, media type, syntax, depth, fields. Nothing else goes further."""

from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from app.errors import BodyTooLarge, GenserveError, InvalidField, InvalidJSON, UnknownField, UnsupportedMediaType

BRANCHES = ("str", "int")  # pydantic's names of a union's branches that look like those of fields
MAX_FIELD_LENGTH = 100  # of a field's name in an answer, which may be the client's own

BodyT = TypeVar("BodyT", bound=BaseModel)


def request_body(schema: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI entry of a body that is read by `read_json`."""
    ref = {"$ref": f"#/components/schemas/{schema.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": ref}}}}


async def read_json(request: Request, schema: type[BodyT]) -> BodyT:
    """The body as a checked value.

    Raises:
        UnsupportedMediaType, BodyTooLarge, InvalidJSON, UnknownField, InvalidField: what is wrong with it.
        ClientDisconnect: the client left before all of it had come.
    """
    headers = dict(request.scope["headers"])  # one pass over the few there are
    media_type = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType(f"Content-Type is {media_type!r}; application/json expected")
    limit = request.app.state.settings.max_body
    _check_length(headers.get(b"content-length", b"0").decode("latin-1"), limit)
    body = await _read(request.receive, limit)
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise as_own_error(error) from None


def media_type_of(request: Request) -> str:
    """What the body is declared as, without parameters; empty when nothing is said."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_bytes(request: Request) -> bytes:
    """The body as it came.

    Raises:
        BodyTooLarge: it is larger than the operator allows.
        ClientDisconnect: the client left before all of it had come.
    """
    limit: int = request.app.state.settings.max_body
    _check_length(request.headers.get("content-length", "0"), limit)
    return await _read(request.receive, limit)


def _check_length(declared: str, limit: int) -> None:
    """Refuse a body before it comes, if it says that it is too large.

    Raises:
        BodyTooLarge: it does.
    """
    if declared.isdecimal() and int(declared) > limit:
        raise BodyTooLarge(f"{declared} bytes; the limit is {limit}")


async def _read(receive: Receive, limit: int) -> bytes:
    chunks, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(f"more than {limit} bytes")
        chunks.append(chunk)
        more = message.get("more_body", False)
    return b"".join(chunks)


def as_own_error(error: ValidationError) -> GenserveError:
    """The first fault of several; a union reports one a branch, and the shortest place names the field."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    first = faults[0]
    if first["type"] == "json_invalid":
        return InvalidJSON(first["msg"])
    if first["type"] == "extra_forbidden":  # the client's own name, which may be anything
        field = ".".join(map(str, first["loc"]))[:MAX_FIELD_LENGTH]
        return UnknownField(f"{field}: unknown field", field=field)
    field = _place(first)
    if not field:
        return InvalidJSON("a JSON object expected")
    messages = dict.fromkeys(fault["msg"] for fault in faults if fault["loc"][:1] == first["loc"][:1])
    return InvalidField(f"{field}: {'; or '.join(messages)}", field=field)


def _place(fault: ErrorDetails) -> str:
    """Where in the body, as dotted names; the branch names that pydantic adds for unions are left out."""
    names = [str(part) for part in fault["loc"] if part not in BRANCHES]
    places = [name for name in names if name.isidentifier() and not name.startswith("constrained")]
    return ".".join(places)[:MAX_FIELD_LENGTH]
