"""A departed client costs nothing: its job is given up the moment the connection closes."""

import asyncio

from fastapi import Request

from app.engine.jobs import Pictures


class ClientLeft(Exception):
    """The client closed its connection before the answer; nobody will read one."""


class Watch:
    """Awaits futures of the engine on behalf of one client."""

    def __init__(self, request: Request) -> None:
        """The request's body must have been read."""
        self._request = request

    async def __call__(self, future: asyncio.Future[Pictures]) -> Pictures:
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
