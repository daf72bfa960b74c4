"""What wraps every request: its id, its line in the log, its place in the metrics; and the short way to busy routes."""

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import GenserveError
from app.routes import problems
from app.routes.connection import ClientLeft
from app.telemetry import Telemetry

REQUEST_ID_PATTERN = re.compile(rb"[A-Za-z0-9._-]{1,64}")
CLIENT_CLOSED = 499  # nobody sees it but the metrics

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]

log = logging.getLogger("genserve.access")


class Envelope:
    """Pure ASGI middleware: a request id in and out, one log line, metrics.

    A busy route is called directly: the framework's layers between here and there cost as much as the route itself.
    It must read its own body and answer with a `Response` or a `GenserveError`.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry, direct: Mapping[tuple[str, str], Endpoint]) -> None:
        """Wrap `app`; `direct` has the busy routes by method and path."""
        self._app = app
        self._telemetry = telemetry
        self._direct = direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500
        request_id = scope["request_id"] = _request_id(scope)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        endpoint = self._direct.get((scope["method"], scope["path"]))
        try:
            if endpoint is None:
                await self._app(scope, receive, send_with_id)
            else:
                scope["direct"] = scope["path"]
                await _call(endpoint, scope, receive, send_with_id)
        except (ClientLeft, ClientDisconnect):  # during the computation, or while its body was being read
            status = CLIENT_CLOSED
        finally:
            self._record(scope, status, time.perf_counter() - start)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = str(scope.get("direct") or getattr(scope.get("route"), "path", "unmatched"))
        self._telemetry.answers(route, scope.get("model", ""), str(status)).inc()
        self._telemetry.durations(route).observe(seconds)
        quiet = status < 400 or route.startswith("/health/")  # probes come every few seconds
        level = logging.DEBUG if quiet else logging.INFO if status < 500 else logging.WARNING
        if log.isEnabledFor(level):
            said = {"request_id": scope["request_id"], "method": scope["method"], "route": route, "status": status}
            took = round(seconds * 1000, 1)
            extra = {**said, "model": scope.get("model", ""), "code": scope.get("code", ""), "milliseconds": took}
            log.log(
                level, "%s %s %d in %.1f ms [%s]", scope["method"], route, status, took, said["request_id"], extra=extra
            )


async def _call(endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    try:
        response = await endpoint(request)
    except GenserveError as error:
        response = problems.own_error(request, error)
    except (ClientLeft, ClientDisconnect):
        raise
    except Exception:
        await problems.bug(request)(scope, receive, send)
        raise  # so that the server logs it
    await response(scope, receive, send)


def _request_id(scope: Scope) -> str:
    """The client's own X-Request-Id when it is harmless, else a fresh one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID_PATTERN.fullmatch(value):
            given: bytes = value
            return given.decode()
    return secrets.token_hex(16)
