"""The HTTP server: uvicorn, with a drain on the first signal and one write an answer.

Knows sockets and signals; what is served is the application's business.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.engine.engine import Engine
from app.routes.connection import CLOSING

BACKLOG = 4096
KEEP_ALIVE_SECONDS = 75
ANSWER_SECONDS = 2  # at least, for answers still on their way once everything is computed

CORKED_BYTES = 1 << 14  # more is not worth copying into one piece

log = logging.getLogger("genserve")


class Server(uvicorn.Server):
    """uvicorn, but the first signal drains: readiness turns 503, what was admitted is answered, then it stops."""

    def __init__(self, app: FastAPI, host: str, port: int, drain_seconds: float) -> None:
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            http=Protocol,
            ws="none",
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=ANSWER_SECONDS,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing here asks who the client is
        )
        super().__init__(config)
        self._app = app
        self._drain_seconds = drain_seconds
        self._drain: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: Any = None) -> None:
        """Run until stopped."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    async def startup(self, sockets: Any = None) -> None:
        """Bind, then say where: with port 0 nobody knew before."""
        await super().startup(sockets)
        for server in self.servers:
            for sock in server.sockets:
                host, port = sock.getsockname()[:2]
                log.info("listening on http://%s:%d, loading models", host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's signature
        """Called by Python's signal machinery: the first signal drains, a second one stops at once."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self.stop_gracefully)

    def stop_gracefully(self) -> None:
        """Begin to drain; called again, stop at once."""
        if self._drain is not None or not self.started:
            self.should_exit = self.force_exit = True
            return
        self._drain = asyncio.ensure_future(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        engine: Engine = self._app.state.engine
        if engine.failure is None:
            log.info("draining: %d requests in flight", engine.in_flight)
        deadline = time.monotonic() + self._drain_seconds
        await engine.drain(self._drain_seconds)
        left = max(ANSWER_SECONDS, round(deadline - time.monotonic()))
        self.config.timeout_graceful_shutdown = left  # what is computed may still have to be encoded and sent
        self.should_exit = True


class Protocol(HttpToolsProtocol):
    """uvicorn's, over a transport that writes the head and the body of an answer at once; tells of its end."""

    _closing: set[Callable[[], Any]]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own
        """Called by asyncio."""
        self._closing = set()
        super().connection_made(cast(asyncio.Transport, Corked(transport, self.loop)))

    def on_message_begin(self) -> None:
        """Called by the parser: a request begins, and so does its scope."""
        super().on_message_begin()
        self.scope["extensions"] = {CLOSING: self._closing}  # type: ignore[dict-item]  # names are the server's to give

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        super().connection_lost(exc)
        for callback in list(self._closing):
            callback()


class Corked:
    """A transport that gathers what one turn of the event loop writes: a system call less for each answer."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._call_soon = loop.call_soon
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's own."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write at the end of this turn; what is large, at once."""
        if len(data) > CORKED_BYTES:
            self._flush()
            self._transport.write(data)
            return
        if not self._held:
            self._call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        """Write what is held, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, []
            if not self._transport.is_closing():  # uvloop's would raise once the client is gone
                self._transport.write(b"".join(held))
