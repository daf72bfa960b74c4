"""One connection of the HTTP server: uvicorn's, with limits on what its client may send, hold and leave unread.

Knows bytes and deadlines; what is answered is the application's business, but for requests that never get that far.
"""

import asyncio
import logging
import re
import secrets
from collections.abc import Collection
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.errors import Draining
from app.limits import Sweep, Watched
from app.routes.connection import CLOSING, Departure
from app.schemas.problems import Problem
from app.transport import Corked

UPGRADE = re.compile(rb"\r\nupgrade(:[ \t]*h2c[ \t]*\r\n)", re.IGNORECASE)
STEP_BYTES = 4096  # parsed at once: what a client may pipeline before it is held back
CLOSE = (b"connection", b"close")

log = logging.getLogger("genserve.connections")


class Protocol(HttpToolsProtocol):
    """uvicorn's connection, with limits, one write an answer, and callbacks at its end.

    Three clocks, which cost a request two notes of the time:

    - A request must have come `read_timeout` after its first byte, however it trickles. Time in which the server itself
      does not read, because the application is slow to take a body or answers an earlier request, is not counted.
    - While anything waits for the client, it must take something within `write_timeout`.
    - A connection without a request is closed after `keep_alive`.
    """

    def __init__(
        self,
        sweep: Sweep,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Called by uvicorn, but for the sweep."""
        super().__init__(config, server_state, app_state, _loop)
        self._sweep = sweep
        self._max_header = sweep.limits.max_header
        self._departure = Departure()
        self._running: RequestResponseCycle | None = None  # being answered, or answered last
        self._piece = 0  # bytes that the parser has now
        self._head = 0  # bytes since the last one that was part of a body, or the end of a head or a message
        self._ahead = b""  # sent ahead, and not parsed before what was sent earlier is answered
        self._deaf = False  # whatever still comes is ignored
        self._last_word: tuple[int, str, str, str] | None = None  # the refusal that waits for an earlier answer
        self._begun: int | None = None  # when the request began that is being received
        self._quiet = 0  # when the last answer was done
        self._taken, self._took = -1, 0  # what the client had taken of what waits for it, and since when

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own
        """Called by asyncio."""
        if len(self.connections) >= self._sweep.limits.max_connections:
            self._sweep.refused()
            transport.abort()
            return
        super().connection_made(cast(asyncio.Transport, Corked(transport, self.loop)))
        self._quiet = self._sweep.now
        self._sweep.watch(cast(Collection[Watched], self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        if self.transport is None:  # it was one too many
            return
        self._stop_reading()
        self.pipeline.clear()
        self._disconnect()
        super().connection_lost(exc)
        self._departure.come()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if self._begun is None and b"h2c" in data:
            data = _without_upgrade(data)
        size = len(data)
        if size > STEP_BYTES or self._head + size > self._max_header or self.pipeline or self._deaf:
            self._take(data)
        elif (used := self._parse(data)) < size:
            self._take(data[used:])

    def on_message_begin(self) -> None:
        """Called by the parser: a request begins, and so does its scope."""
        super().on_message_begin()
        self.scope["extensions"] = {CLOSING: self._departure}  # type: ignore[dict-item]  # names are the server's to give
        self._begun = self._sweep.now

    def on_headers_complete(self) -> None:
        """Called by the parser: the request is begun, or waits for the one before it."""
        super().on_headers_complete()
        self._head = -self._piece
        if not self.pipeline:
            self._running = self.cycle

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._head = -self._piece
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser: from here on, time is the application's."""
        self._head = -self._piece
        self._begun = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Called by uvicorn; unlike its own, reads on only once no other request waits, and sets no timer."""
        self.server_state.total_requests += 1
        self._quiet = self._sweep.now
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._running, app = self.pipeline.pop()
            self._start_asgi_task(self._running, app)
        elif self._last_word:
            self._refuse(*self._last_word)
        if not self.pipeline:
            self.flow.resume_reading()
            if self._ahead:
                self._take(b"")

    def shutdown(self) -> None:
        """Called by the server, once what was admitted is answered: what is only half here comes too late."""
        if self._begun is None or self._answers_another():
            super().shutdown()
        else:
            self._refuse(Draining.status, Draining.code, Draining.title, "the service is shutting down")

    def check(self) -> None:
        """Called by the sweep: end what takes too long."""
        limits, now = self._sweep.limits, self._sweep.now
        if self._stalls():
            log.info("%s: cut off, it has taken nothing for %g s", self._who(), limits.write_timeout)
            self.transport.abort()
        elif self.transport.is_closing():
            return
        elif self._begun is not None:
            if self.flow.read_paused or self._answers_another():
                self._begun += 1
            elif now - self._begun >= self._sweep.read:
                detail = f"the request has not come within {limits.read_timeout:g} s"
                self._refuse(408, "request_timeout", "The request did not come in time", detail)
        elif not self._answers() and now - self._quiet >= (self._sweep.linger if self._deaf else self._sweep.idle):
            self.transport.close()

    def _parse(self, data: bytes) -> int:
        """How many of the bytes the parser took."""
        self._piece = used = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:  # nothing here upgrades: what follows is HTTP as before
            used = upgrade.args[0]
        except httptools.HttpParserError:
            self._refuse(400, "invalid_http", "This is not HTTP", "the request can't be parsed")
        self._head += used
        return used

    def _take(self, data: bytes) -> None:
        """Parse in small steps, as long as no request waits for another and no head grows too large.

        The size of a head is exact where it begins with a step, so for a client that waits for its answers; behind
        another request, up to a step is not counted. What follows a head and is not a body is counted too: trailers.
        """
        data, done = self._ahead + data, 0
        while done < len(data) and not self.pipeline and not self._deaf:
            room = self._max_header - self._head
            if room <= 0:
                detail = f"the request line and the headers have more than {self._max_header} bytes"
                self._refuse(431, "headers_too_large", "The headers are too large", detail)
                return
            done += self._parse(data[done : done + min(room, STEP_BYTES)])
        self._ahead = b"" if self._deaf else data[done:]
        if self._ahead:
            self.flow.pause_reading()

    def _answers(self) -> bool:
        """Whether a request is being answered."""
        return self._running is not None and not self._running.response_complete

    def _answers_another(self) -> bool:
        """Whether a request is being answered, and it is not the one that is being received."""
        return self._answers() and not self._receives_running()

    def _receives_running(self) -> bool:
        """Whether the request that is being received is already with the application."""
        return self._begun is not None and self._running is not None and self._running.scope is self.scope

    def _stalls(self) -> bool:
        """Whether something waits for the client, and it has taken nothing for too long."""
        if not self.transport.get_write_buffer_size():
            self._taken = -1
            return False
        taken = cast(Corked, self.transport).taken()
        if taken != self._taken:
            self._taken, self._took = taken, self._sweep.now
        return self._sweep.now - self._took >= self._sweep.write

    def _refuse(self, status: int, code: str, title: str, detail: str) -> None:
        """Answer for the application, and read no further.

        The answer to an earlier request comes first; where this one's has begun, nothing more can be said.
        """
        log.info("%s: %d %s", self._who(), status, code)
        earlier, same, running = self._answers_another(), self._receives_running(), self._running
        if self._begun is not None and self.pipeline and self.pipeline[0][0].scope is self.scope:
            self.pipeline.popleft()  # this very request; those before it are whole
        self._stop_reading()
        if earlier:
            self._last_word = status, code, title, detail
        elif running is not None and same and running.response_started:
            self.transport.close()
        else:
            self._disconnect()
            self.transport.write(self._problem(status, code, title, detail))
            self.transport.write_eof()  # closed with input unread, the client might never see it: `check` closes later

    def _problem(self, status: int, code: str, title: str, detail: str) -> bytes:
        request_id = secrets.token_hex(16)
        kind = f"urn:genserve:error:{code}"
        problem = Problem(type=kind, title=title, status=status, code=code, detail=detail, request_id=request_id)
        body = problem.model_dump_json(exclude_none=True).encode()
        own = {"content-type": "application/problem+json", "content-length": len(body), "x-request-id": request_id}
        headers = [(name.encode(), str(value).encode()) for name, value in own.items()]
        lines = [b"%b: %b\r\n" % header for header in [*self.server_state.default_headers, *headers, CLOSE]]
        return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, HTTPStatus(status).phrase.encode(), b"".join(lines), body)

    def _stop_reading(self) -> None:
        """Forget what is half here, and ignore what follows."""
        self._deaf, self._ahead, self._begun, self._quiet = True, b"", None, self._sweep.now

    def _disconnect(self) -> None:
        """Tell the application that nobody waits for its answer; uvicorn tells only the request that came last."""
        running, self._running = self._running, None
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()

    def _who(self) -> str:
        return ":".join(map(str, self.client or ("a client",)))


def _without_upgrade(data: bytes) -> bytes:
    """A head that no longer offers HTTP/2, as Java's client does each time: the parser would take its body for that."""
    head, end, rest = data.partition(b"\r\n\r\n")
    return UPGRADE.sub(rb"\r\nignored\1", head + end[:2]) + end[2:] + rest
