"""A departed client costs nothing: its job is given up the moment the connection closes."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from fastapi import Request

CLOSING = "genserve.closing"  # in a scope's extensions: the `Departure` of the connection, if the server has one

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class ClientLeft(Exception):
    """The client closed its connection before the answer; nobody will read one."""


class Departure:
    """The end of a connection: what is to be called then, or at once where it has come already."""

    def __init__(self) -> None:
        """It has not come."""
        self._callbacks = set[Callable[[], Any]]()
        self._over = False

    def add(self, callback: Callable[[], Any]) -> None:
        """Call this when the client leaves; now, if it has left."""
        if self._over:
            callback()
        else:
            self._callbacks.add(callback)

    def discard(self, callback: Callable[[], Any]) -> None:
        """Nobody is interested any more."""
        self._callbacks.discard(callback)

    def come(self) -> None:
        """The client has left."""
        self._over = True
        for callback in list(self._callbacks):
            callback()


class Made(Protocol[T_co]):
    """Something that is made for a client, piece by piece."""

    def whole(self) -> Coroutine[Any, Any, T_co]:
        """All of it."""
        ...

    def close(self) -> None:
        """Give up what is not made yet; harmless when all is."""
        ...


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
        departure = self._request.scope.get("extensions", {}).get(CLOSING)
        if departure is None:
            return await self._with_task(future)
        return await _with_callback(future, departure)

    async def whole(self, made: Made[T]) -> T:
        """All of what is made; whatever ends the waiting, even before the making has begun, gives the rest up.

        Raises:
            ClientLeft: the client left first.
        """
        try:
            return await self(asyncio.ensure_future(made.whole()))
        finally:
            made.close()

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


async def _with_callback(future: asyncio.Future[T], departure: Departure) -> T:
    left = False

    def leave() -> None:
        nonlocal left
        left = True
        future.cancel()

    departure.add(leave)
    try:
        return await future
    except asyncio.CancelledError:
        if left:
            raise ClientLeft from None
        raise
    finally:
        departure.discard(leave)
