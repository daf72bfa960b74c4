"""A small TCP proxy on 127.0.0.1 that slows, stalls, cuts or resets what passes through it."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

CHUNK = 1 << 16
BUFFER = 1 << 12  # a small window, so that the server feels at once that nobody reads
PIECES_A_SECOND = 20
RESET = struct.pack("ii", 1, 0)  # linger for no time: closing sends RST


@dataclass(frozen=True)
class Fault:
    """What happens to one direction of a connection.

    Attributes:
        after: bytes that pass before it happens.
        then: go on; stall (neither read nor close: half-open); close; reset.
        rate: bytes a second; 0 is as fast as can be.
    """

    after: int = 0
    then: Literal["pass", "stall", "close", "reset"] = "pass"
    rate: int = 0


class Proxy:
    """Connections to `upstream`, whose requests suffer `up` and whose answers suffer `down`."""

    def __init__(self, upstream: int, up: Fault, down: Fault) -> None:
        self._upstream, self._up, self._down = upstream, up, down
        self._connections: set[asyncio.Task[None]] = set()

    async def accept(self, listener: socket.socket) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            task = asyncio.ensure_future(self._connect(client))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def close(self) -> None:
        """End all connections."""
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connect(self, client: socket.socket) -> None:
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        with client, server:
            client.setblocking(False)
            server.setblocking(False)
            with contextlib.suppress(OSError):
                await asyncio.get_running_loop().sock_connect(server, ("127.0.0.1", self._upstream))
                await self._carry(client, server)

    async def _carry(self, client: socket.socket, server: socket.socket) -> None:
        """Until both directions have ended, or one of them breaks the connection."""
        pumps = {
            asyncio.ensure_future(_pump(client, server, self._up)),
            asyncio.ensure_future(_pump(server, client, self._down)),
        }
        try:
            while pumps:
                done, pumps = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                if any(pump.exception() or pump.result() for pump in done):
                    return
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(source: socket.socket, target: socket.socket, fault: Fault) -> bool:
    """Carry one direction; whether the connection is to be broken off."""
    loop, passed = asyncio.get_running_loop(), 0
    while fault.then == "pass" or passed < fault.after:
        size = CHUNK if fault.then == "pass" else min(CHUNK, fault.after - passed)
        size = min(size, max(1, fault.rate // PIECES_A_SECOND)) if fault.rate else size
        data = await loop.sock_recv(source, size)
        if not data:
            target.shutdown(socket.SHUT_WR)
            return False
        await loop.sock_sendall(target, data)
        passed += len(data)
        if fault.rate:
            await asyncio.sleep(len(data) / fault.rate)
    if fault.then == "stall":
        await asyncio.Event().wait()
    if fault.then == "reset":
        for sock in (source, target):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    return True


@contextlib.asynccontextmanager
async def proxied(url: str, *, up: Fault = Fault(), down: Fault = Fault()) -> AsyncIterator[str]:
    """The address of a proxy before `url`; all that goes through it ends with the block."""
    proxy = Proxy(int(url.rpartition(":")[2]), up, down)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.setblocking(False)
        accepting = asyncio.ensure_future(proxy.accept(listener))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
            await proxy.close()
