"""The HTTP server: uvicorn, with a drain on the first signal, and limits on what clients may take.

Knows sockets and signals; what is served is the application's business, a connection is `Protocol`'s.
"""

import asyncio
import logging
import time
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from app.engine.engine import Engine
from app.limits import Limits, Sweep, allow_files
from app.protocol import Protocol

BACKLOG = 4096
ANSWER_SECONDS = 2  # at least, for answers still on their way once everything is computed

LAST_SECONDS = 0.2  # for those who are told that there will be no answer

log = logging.getLogger("genserve")


class Server(uvicorn.Server):
    """uvicorn, but the first signal drains: readiness turns 503, what was admitted is answered, then it stops."""

    def __init__(self, app: FastAPI, host: str, port: int, drain_seconds: float, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            http=cast(type[asyncio.Protocol], partial(Protocol, Sweep(self._limits))),  # called like a class
            ws="none",
            backlog=BACKLOG,
            timeout_graceful_shutdown=ANSWER_SECONDS,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # an address that anybody may claim is none
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
        allow_files(self._limits.max_connections)
        await super().startup(sockets)
        for server in self.servers:
            for sock in server.sockets:
                host, port = sock.getsockname()[:2]
                log.info("listening on http://%s:%d, loading models", host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's signature
        """Called by Python's signal machinery: the first signal drains, a second one stops at once."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._signalled)

    def _signalled(self) -> None:
        if self._drain is None or self._loop is None:
            self.stop_gracefully()
        else:
            self._loop.call_later(LAST_SECONDS, self._stop_at_once)
            self._app.state.engine.abandon()

    def _stop_at_once(self) -> None:
        self.should_exit = self.force_exit = True

    def stop_gracefully(self) -> None:
        """Begin to drain, if that has not begun; before the start is over, stop at once."""
        if not self.started:
            self.should_exit = self.force_exit = True
        elif self._drain is None:
            self._drain = asyncio.ensure_future(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        engine: Engine = self._app.state.engine
        if engine.failure is None:
            log.info("draining: %d requests in flight", engine.in_flight)
        deadline = time.monotonic() + self._drain_seconds
        try:
            await engine.drain(self._drain_seconds)
        finally:  # whatever happens, no server stays that nobody can stop
            left = max(ANSWER_SECONDS, round(deadline - time.monotonic()))
            self.config.timeout_graceful_shutdown = left  # what is computed may still have to be encoded and sent
            self.should_exit = True
