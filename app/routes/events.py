"""Server-sent events: pieces of text as they come, and a comment while nothing comes."""

import asyncio
from collections.abc import AsyncIterator, Callable

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from app.choice import Piece
from app.completion import Completion
from app.errors import GenserveError
from app.routes import problems
from app.routes.connection import Watch

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"


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
        self._pieces = completion.pieces()
        super().__init__(
            (),
            media_type="text/event-stream",
            headers={**headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all; whatever ends the sending ends the generation, even before the first event.

        An error that comes before anything else is answered with its own status.
        """
        seconds = self._request.app.state.settings.ping_seconds
        first = asyncio.ensure_future(anext(self._pieces, None))
        pinged = Pinged(send, seconds)
        try:
            await Watch(self._request)(asyncio.ensure_future(asyncio.wait({first}, timeout=seconds)))
            if first.done():
                first.result()
            self.body_iterator = self._events(first)
            await super().__call__(scope, receive, pinged)
        except GenserveError as error:
            await problems.own_error(self._request, error)(scope, receive, send)
        finally:
            pinged.stop()
            first.cancel()  # harmless once it is done
            self._completion.close()

    async def _events(self, first: asyncio.Future[Piece | None]) -> AsyncIterator[bytes]:
        try:
            if not first.done():
                yield PING
            piece = await first
            while piece is not None:
                yield self._write(piece)
                piece = await anext(self._pieces, None)
            yield self._finish() + DONE
        except GenserveError as error:
            yield self._fail(error)


class Pinged:
    """A `send` that says something whenever nothing was sent for so many seconds, from the answer's head to its end."""

    def __init__(self, send: Send, seconds: float) -> None:
        self._send = send
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._sent = 0.0
        self._pings: asyncio.Task[None] | None = None

    async def __call__(self, message: Message) -> None:
        """Send a part of the answer."""
        self._sent = self._loop.time()
        if message["type"] == "http.response.start":
            self._pings = asyncio.create_task(self._ping())
        elif not message.get("more_body", False):
            self.stop()
        await self._send(message)

    def stop(self) -> None:
        """Say no more."""
        if self._pings is not None:
            self._pings.cancel()

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(self._sent + self._seconds - self._loop.time())
            if self._loop.time() >= self._sent + self._seconds:
                self._sent = self._loop.time()
                await self._send({"type": "http.response.body", "body": PING, "more_body": True})
