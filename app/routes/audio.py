"""`POST /v1/audio/generate`: speech as a WAV file, whole or while it is made."""

import asyncio
import logging
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from app.audio import Speaker, Speech
from app.errors import GenserveError
from app.routes import problems
from app.routes.accept import accepted, negotiate
from app.routes.body import read_json, request_body
from app.routes.connection import Watch
from app.routes.reproduce import reproduction_headers
from app.routes.terms import terms_of
from app.schemas.audio import AudioRequest

WAV = "audio/wav"
SOUND: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "16-bit PCM, one channel; when streamed of unknown length, sent while it is made.",
        "content": {WAV: {"schema": {"type": "string", "format": "binary"}}},
    }
}

log = logging.getLogger("genserve.http")

router = APIRouter()


@router.post(
    "/v1/audio/generate",
    summary="Generate speech",
    response_class=Response,
    responses=SOUND | problems.responses(400, 404, 406, 413, 415, 429, 500, 503, 504),
    openapi_extra=request_body(AudioRequest),
)
async def generate(request: Request) -> Response:
    """What the prompt says, by the first speech model unless another is named."""
    negotiate(accepted(request.scope), (WAV,))
    return await answer(request, await read_json(request, AudioRequest))


async def answer(request: Request, body: AudioRequest) -> Response:
    """The sound that a body asks for, in either route's name.

    Raises:
        GenserveError: the request does not fit the model, or the engine refuses or fails it.
    """
    speaker: Speaker = request.app.state.speaker
    request.scope["model"] = speaker.model(body.model).name
    speech = speaker.begin(body, terms_of(request, body, whole=not body.stream))
    headers = reproduction_headers(request, speech.info, speech.seed)
    if body.stream:
        return WavStream(request, speech, headers)
    whole = await Watch(request).whole(speech)
    return Response(whole, headers=headers, media_type=WAV)


class WavStream(Response):
    """The answer that sends sound while it is made; what is not made yet is given up when the client leaves.

    An error before the first sample has its own status. After it, all that can be done is to break the connection off
    before the end that the client waits for.
    """

    def __init__(self, request: Request, speech: Speech, headers: dict[str, str]) -> None:
        """Nothing is sent yet."""
        super().__init__(headers={**headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}, media_type=WAV)
        del self.headers["content-length"]  # it is not known
        self._request, self._speech = request, speech
        self._pieces, self._watch = speech.pieces(), Watch(request)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all; whatever ends the sending ends the speech, even before the first sample."""
        try:
            first = await self._following()
        except GenserveError as error:
            await problems.own_error(self._request, error)(scope, receive, send)
        else:
            await self._send(first, send)
        finally:
            self._speech.close()

    async def _send(self, piece: bytes | None, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            while piece is not None:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                piece = await self._following()
        except GenserveError as error:
            log.warning("%s: broken off after the first samples: %s", self._speech.info.name, error.detail)
        else:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _following(self) -> bytes | None:
        """What was made since; None at the end."""
        return await self._watch(asyncio.ensure_future(anext(self._pieces, None)))
