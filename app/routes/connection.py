"""A departed client costs nothing: its job is given up the moment the connection closes."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import Request

CLOSING = "genserve.closing"  # in a scope's extensions: callbacks for the connection's end, if the server has them

T = TypeVar("T")


class ClientLeft(Exception):
    """The client closed its connection before the answer; nobody will read one."""


class Watch:
    """Awaits futures on behalf of one client, and cancels them when it leaves."""

    def __init__(self, request: Request) -> None:
        """The request's body must have been read."""
        self._request = request

    async def __call__(self, future: asyncio.Future[T]) -> T:
        """The future's result.

        Raises:
            ClientLeft: the client left first; the future is cancelled.
        """
        callbacks = self._request.scope.get("extensions", {}).get(CLOSING)
        if callbacks is None:
            return await self._with_task(future)
        return await _with_callback(future, callbacks)

    async def _with_task(self, future: asyncio.Future[T]) -> T:
        """Under any ASGI server: one more task a request."""
        closed = asyncio.ensure_future(self._request.receive())  # after the body, only a disconnect can come
        closed.add_done_callback(lambda _: future.cancel())
        try:
            return await future
        except asyncio.CancelledError:
            if closed.done() and not closed.cancelled():
                raise ClientLeft from None
            raise
        finally:
            closed.cancel()


async def _with_callback(future: asyncio.Future[T], callbacks: set[Callable[[], Any]]) -> T:
    left = False

    def leave() -> None:
        nonlocal left
        left = True
        future.cancel()

    callbacks.add(leave)
    try:
        return await future
    except asyncio.CancelledError:
        if left:
            raise ClientLeft from None
        raise
    finally:
        callbacks.discard(leave)
