"""The terms of a request: who asks, by when the answer is wanted, and what was asked for."""

import re
from functools import partial

from fastapi import Request
from pydantic import BaseModel

from app.engine.terms import Terms
from app.errors import InvalidField

HEADER = "X-Request-Timeout"
RAW_HEADER = HEADER.lower().encode()
LONGEST = 3600.0
SECONDS_PATTERN = re.compile(rb"[0-9]{1,5}(\.[0-9]{1,9})?")
# fields that the worker never sees
UNCOMPUTED = {
    *("scale", "format", "duration_ms", "loop", "stream", "stream_options", "stop", "prompt_in_provenance"),
    *("user", "metadata", "safety_identifier", "prompt_cache_key"),
}


def terms_of(request: Request, body: BaseModel, content: bytes = b"", *, whole: bool = True) -> Terms:
    """Whose the request is, by address, and the seconds that it has: from its header, else from the settings.

    Args:
        request: for its address and headers.
        body: what was asked for; a seed is in it only when the client gave one.
        content: a file that came with it.
        whole: nothing is sent before everything is there.

    Raises:
        InvalidField: the header is not a number of seconds.
    """
    client = request.scope.get("client")
    given = next((value for name, value in request.scope["headers"] if name == RAW_HEADER), None)
    seconds = request.app.state.settings.request_timeout if given is None else _seconds(given)
    return Terms(client[0] if client else "", seconds, partial(_origin, body, content), whole)


def _origin(body: BaseModel, content: bytes = b"") -> bytes:
    return body.model_dump_json(exclude=UNCOMPUTED, exclude_none=True).encode() + content


def _seconds(given: bytes) -> float:
    seconds = float(given) if SECONDS_PATTERN.fullmatch(given) else 0.0
    if not 0 < seconds <= LONGEST:
        said = given[:40].decode("latin-1")
        raise InvalidField(f"{HEADER}: {said!r} is not a number of seconds above 0, up to {LONGEST:g}", field=HEADER)
    return seconds
