"""A departed client costs nothing: its job is given up the moment the connection closes."""

import asyncio
from typing import TypeVar

from fastapi import Request

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
