"""Server-sent events: pieces of text as they come, and a comment while nothing comes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from enum import Enum

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.completion import Completion, Piece
from app.errors import GenserveError
from app.routes import problems
from app.routes.connection import Watch

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"


class End(Enum):
    """What comes when nothing more does."""

    END = 0


END = End.END


def event(data: str) -> bytes:
    """One event; JSON has no line breaks of its own."""
    return f"data: {data}\n\n".encode()


class EventStream(StreamingResponse):
    """The answer that streams a completion; the completion is given up when the client leaves or the stream ends."""

    def __init__(
        self,
        request: Request,
        completion: Completion,
        write: Callable[[Piece], bytes],
        finish: Callable[[], bytes],
        fail: Callable[[GenserveError], bytes],
        headers: dict[str, str],
    ) -> None:
        """Write each piece with `write`, then `finish`; `fail` writes an error that comes after the first byte."""
        self._request = request
        self._completion = completion
        self._write, self._finish, self._fail = write, finish, fail
        self._pieces = pinged(completion.pieces(), request.app.state.settings.ping_seconds)
        super().__init__(
            (),
            media_type="text/event-stream",
            headers={**headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all; whatever ends the sending ends the generation, even before the first event.

        An error that comes before anything else is answered with its own status.
        """
        try:
            first = await Watch(self._request)(asyncio.ensure_future(anext(self._pieces, END)))
            self.body_iterator = self._events(first)
            await super().__call__(scope, receive, send)
        except GenserveError as error:
            await problems.own_error(self._request, error)(scope, receive, send)
        finally:
            self._completion.close()

    async def _events(self, first: Piece | End | None) -> AsyncIterator[bytes]:
        try:
            if not isinstance(first, End):
                yield PING if first is None else self._write(first)
            async for piece in self._pieces:
                yield PING if piece is None else self._write(piece)
            yield self._finish() + DONE
        except GenserveError as error:
            yield self._fail(error)


async def pinged(pieces: AsyncIterator[Piece], seconds: float) -> AsyncIterator[Piece | None]:
    """The same pieces, and None whenever none came for so many seconds."""
    while True:
        upcoming = asyncio.ensure_future(anext(pieces, None))
        try:
            while not (await asyncio.wait({upcoming}, timeout=seconds))[0]:
                yield None
        finally:
            upcoming.cancel()  # harmless once it is done
        piece = upcoming.result()
        if piece is None:
            return
        yield piece
