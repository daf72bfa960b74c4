"""One request and what came of it, to the second: clients that wait, clients that leave, and a load of both kinds.

Raw sockets, so that a client leaves exactly when it is told to and a closed connection is not hidden by a retry.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

HANG_SECONDS = 15.0  # a request that is not answered by then hangs
PAUSE_SECONDS = 0.1  # of a client after a failure, and between probes

OK, CLOSED, REFUSED, HANGING, WAITING = "200", "closed", "refused", "hanging", "waiting"


@dataclass(frozen=True)
class Outcome:
    """What a client saw.

    Attributes:
        what: an HTTP status, "closed" (the connection, without an answer), "refused" (to connect), "hanging" (for so
            long that the client gave up) or "waiting" (when the test ended).
        sent: when, monotonic seconds.
        ended: when the client knew.
        content: of a good answer.
    """

    what: str
    sent: float
    ended: float
    content: bytes = b""


@dataclass(frozen=True)
class Door:
    """Where a server takes requests, on 127.0.0.1."""

    port: int
    path: str

    def request(self, seed: int) -> bytes:
        body = json.dumps({"seed": seed}).encode()
        head = f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


async def ask(door: Door, seed: int, limit: float | None = None) -> Outcome:
    """One picture, on a connection of its own."""
    sent, content = time.monotonic(), b""
    try:
        async with asyncio.timeout(HANG_SECONDS if limit is None else limit):
            what, content = await _exchange(door, seed)
    except TimeoutError:
        what = HANGING
    except ConnectionRefusedError:
        what = REFUSED
    except (OSError, EOFError, ValueError):  # reset, or ended in the middle of an answer
        what = CLOSED
    return Outcome(what, sent, time.monotonic(), content if what == OK else b"")


async def _exchange(door: Door, seed: int) -> tuple[str, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    try:
        writer.write(door.request(seed))
        head = await reader.readuntil(b"\r\n\r\n")
        status = head.split(b" ", 2)[1].decode()
        fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:-2])
        length = fields.get(b"content-length")
        return status, await (reader.read() if length is None else reader.readexactly(int(length)))
    finally:
        writer.close()


async def leave(door: Door, seed: int, after: float) -> None:
    """Ask, and close the connection so many seconds later without an answer."""
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(door.request(seed))
        await writer.drain()
        await asyncio.sleep(after)
        writer.close()


@dataclass
class Load:
    """Clients that ask again when they are answered, and a probe that asks ten times a second whatever happens.

    Attributes:
        outcomes: of the clients.
        probes: of the probe.
        going: take it back, and nothing new is asked.
    """

    door: Door
    seeds: Sequence[int]
    outcomes: list[Outcome] = field(default_factory=list)
    probes: list[Outcome] = field(default_factory=list)
    going: bool = True

    async def run(self) -> None:
        """Until nothing new is asked and all has come to something; cancelled, what is left is noted as waiting."""
        async with asyncio.TaskGroup() as group:
            for seed in self.seeds:
                group.create_task(self._ask_again(seed))
            while self.going:
                group.create_task(self._ask(self.seeds[0], self.probes))
                await asyncio.sleep(PAUSE_SECONDS)

    async def _ask_again(self, seed: int) -> None:
        while self.going:
            await self._ask(seed, self.outcomes)
            if self.outcomes[-1].what != OK:
                await asyncio.sleep(PAUSE_SECONDS)

    async def _ask(self, seed: int, into: list[Outcome]) -> None:
        sent = time.monotonic()
        try:
            into.append(await ask(self.door, seed))
        except asyncio.CancelledError:
            into.append(Outcome(WAITING, sent, time.monotonic()))
            raise
