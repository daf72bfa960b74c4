"""Clients that write down what became of each request: none may be left open, nobody may get another's result."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import aiohttp

from tests.chaos.asks import Ask, begun, events
from tests.chaos.proxy import RESET

PATIENCE = 60.0  # seconds in which every request has to have had its answer, on a busy machine too
CHUNK = 1 << 16

Kind = Literal["answered", "refused", "broken", "wrong", "nonsense", "closed", "cut", "timeout"]


@dataclass(frozen=True)
class Outcome:
    """What became of a request.

    Attributes:
        kind: answered: a whole answer, and its own. refused: an error in the documented form. broken: a stream that
            ended with an error event, right as far as it went. closed: the connection ended before any answer. These
            are as they should be or may be. wrong: another's result. nonsense: an error in no known form. cut: the
            connection ended within the answer. timeout: neither answer nor end.
        status: of the answer; 0 when there was none.
        code: of the error; empty when there was none.
        body: as far as it came.
        headers: with names in small letters.
        seconds: from sending to the end.
        client: the address that it came from.
    """

    kind: Kind
    status: int = 0
    code: str = ""
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    client: str = "127.0.0.1"

    def __str__(self) -> str:
        return f"{self.kind} {self.status} {self.code}".strip()

    @property
    def retry_after(self) -> float:
        """Seconds after which a refused client may come again, as exactly as the answer says."""
        return int(self.headers["retry-after-ms"]) / 1000


class Clients:
    """Any number of clients at one address."""

    def __init__(self, url: str, source: str, keep: bool) -> None:
        self._url, self._source = url, source
        connector = aiohttp.TCPConnector(limit=0, local_addr=(source, 0), force_close=not keep)
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    async def close(self) -> None:
        await self._session.close()

    async def ask(self, ask: Ask, patience: float = PATIENCE) -> Outcome:
        """Send one request and see what becomes of it."""
        start, kind, status, headers, body = time.perf_counter(), "closed", 0, {}, bytearray()
        sent = {"Content-Type": ask.media_type, **ask.headers}
        try:
            async with asyncio.timeout(patience):
                async with self._session.post(self._url + ask.path, data=ask.sent, headers=sent) as response:
                    status, kind = response.status, "cut"
                    headers = {name.lower(): value for name, value in response.headers.items()}
                    async for data in response.content.iter_any():
                        body += data
                kind = ""
        except TimeoutError:
            kind = "timeout"
        except (aiohttp.ClientError, OSError):
            pass
        seconds = time.perf_counter() - start
        kind, code = (kind, "") if kind else judge(ask, status, headers, bytes(body))
        return Outcome(kind, status, code, bytes(body), headers, seconds, self._source)

    async def ask_all(self, asks: Iterable[Ask], patience: float = PATIENCE) -> list[Outcome]:
        """Send all at once."""
        return await asyncio.gather(*(self.ask(ask, patience) for ask in asks))


def judge(ask: Ask, status: int, headers: Mapping[str, str], body: bytes) -> tuple[Kind, str]:
    """What a whole answer is worth, and the code of its error."""
    try:
        if status != 200:
            return "refused", _code(headers, body)
        if ask.stream:
            _, done, code = events(body)
            if code and not done:
                return ("broken" if begun(body, ask) else "wrong"), code
            if not done:
                return "nonsense", ""
        return ("answered" if ask.own(body) else "wrong"), ""
    except (ValueError, KeyError, TypeError):
        return "nonsense", ""


def _code(headers: Mapping[str, str], body: bytes) -> str:
    """The code of an error in one of the two documented forms.

    Raises:
        ValueError, KeyError, TypeError: it is in neither.
    """
    said = json.loads(body)
    code = said["code"] if headers["content-type"].startswith("application/problem+json") else said["error"]["code"]
    return str(code)


@contextlib.asynccontextmanager
async def clients(url: str, *, source: str = "127.0.0.1", keep: bool = False) -> AsyncIterator[Clients]:
    """Clients at an address of this machine; each request has a connection of its own, unless they are kept."""
    made = Clients(url, source, keep)
    try:
        yield made
    finally:
        await made.close()
        await asyncio.sleep(0)  # connections close at the loop's next turn


# Clients that behave badly work on sockets.


def address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


async def connect(url: str) -> socket.socket:
    """A connected socket that does not block."""
    sock = socket.socket()
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, address(url))
    except BaseException:
        sock.close()
        raise
    return sock


def hang_up(sock: socket.socket, *, reset: bool) -> None:
    """Close in order, or as a crashed machine would."""
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


async def leave(url: str, data: bytes, *, read: int = 0, linger: float = 0.0, reset: bool = False) -> bytes:
    """Send this, read at least so many bytes, stay for so many seconds, and go; gives what was read."""
    loop = asyncio.get_running_loop()
    sock, got = await connect(url), b""
    try:
        async with asyncio.timeout(PATIENCE):
            await loop.sock_sendall(sock, data)
            while len(got) < read and (more := await loop.sock_recv(sock, CHUNK)):
                got += more
            await asyncio.sleep(linger)
    finally:
        hang_up(sock, reset=reset)
    return got


async def exchange(url: str, data: bytes, patience: float = PATIENCE) -> tuple[bytes, bool]:
    """Send raw bytes and read until the server closes, or for so long; whether it closed."""
    loop = asyncio.get_running_loop()
    got = bytearray()
    with await connect(url) as sock:
        try:
            async with asyncio.timeout(patience):
                await loop.sock_sendall(sock, data)
                while more := await loop.sock_recv(sock, CHUNK):
                    got += more
        except TimeoutError:
            return bytes(got), False
        except OSError:  # reset, as when the server closed before it had read all
            pass
    return bytes(got), True
