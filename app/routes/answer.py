"""An answer in OpenAI's shape: what all its choices share, written once, and the choices between."""

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Sequence

from fastapi import Request, Response

from app.choice import Piece
from app.completion import Completion
from app.routes import problems
from app.routes.events import EventStream, event
from app.routes.reproduce import reproduction_headers

quote = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Answer:
    """Choices, as JSON, put into their envelope; id and time are the same for all of a request."""

    def __init__(self, request: Request, completion: Completion, prefix: str, kind: str) -> None:
        """An id that begins with `prefix`, of an object of this kind."""
        self._request = request
        self._completion = completion
        self.headers = reproduction_headers(request, completion.info, completion.seed)
        shared = {
            "id": f"{prefix}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": completion.info.name,
            "system_fingerprint": _fingerprint(completion.info.digest, self.headers["X-Genserve-Runtime"]),
        }
        self._head = quote(shared)[:-1] + ',"choices":['

    def whole(self, choices: Sequence[str]) -> Response:
        """All choices and the usage."""
        body = f'{self._head}{",".join(choices)}],"usage":{quote(self._completion.usage.model_dump())}}}'
        return Response(body, headers=self.headers, media_type="application/json")

    def stream(self, choice: Callable[[Piece], Sequence[str]], *, include_usage: bool) -> Response:
        """An event for each of the choices that a piece is written as; at the end, if wanted, one with the usage."""
        tail = '],"usage":null}' if include_usage else "]}"

        def write(piece: Piece) -> bytes:
            return b"".join([event(f"{self._head}{text}{tail}") for text in choice(piece)])

        def finish() -> bytes:
            usage = quote(self._completion.usage.model_dump())
            return event(f'{self._head}],"usage":{usage}}}') if include_usage else b""

        return EventStream(self._request, self._completion, write, finish, problems.openai_event, self.headers)


def _fingerprint(digest: str, runtime: str) -> str:
    """Of all that decides an answer besides its request."""
    return "fp_" + hashlib.sha256(f"{digest} {runtime}".encode()).hexdigest()[:12]
