"""Many connections of one thread: a burst of one request each, or a closed loop over several bodies.

Costs about 20 us of CPU time a request, less than asyncio; knows HTTP/1.1 as far as answers with a Content-Length.
"""

import re
import select
import socket
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from app.bench.load import open_files
from benchmarks.server import ServerError

HEAD_END = b"\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
CHUNK = 1 << 16
PATIENCE = 120.0  # seconds without any answer


def request(path: str, body: bytes, accept: str = "image/png") -> bytes:
    """A whole request as it is sent."""
    fields = {"Host": "127.0.0.1", "Content-Type": "application/json", "Accept": accept, "Content-Length": len(body)}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


class Crowd:
    """So many open connections to a server on 127.0.0.1.

    Attributes:
        connect_seconds: that opening them took.
    """

    def __init__(self, port: int, size: int) -> None:
        if open_files(size) < size:
            raise ServerError(f"the limit on open files leaves no room for {size} connections")
        start = time.perf_counter()
        self._sockets = {s.fileno(): s for s in (socket.create_connection(("127.0.0.1", port)) for _ in range(size))}
        self.connect_seconds = time.perf_counter() - start
        self._poll = select.epoll()
        for number, sock in self._sockets.items():
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._poll.register(number, select.EPOLLIN)
        self._partial: dict[int, bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.leave()
        self._poll.close()

    def send(self, message: bytes) -> None:
        """One request on every connection, without waiting for answers."""
        for sock in self._sockets.values():
            sock.sendall(message)

    def leave(self, pause: float = 0.0) -> None:
        """Close one connection after the other, with a pause between them."""
        for sock in self._sockets.values():
            sock.close()
            if pause:
                time.sleep(pause)
        self._sockets.clear()

    def burst(self, message: bytes) -> list[float]:
        """One request on every connection; seconds from the first byte sent to each answer, in order of coming."""
        start, took = time.perf_counter(), list[float]()
        self.send(message)
        while len(took) < len(self._sockets):
            count = len(self._answered())
            took += [time.perf_counter() - start] * count
        return took

    def closed_loop(self, messages: Sequence[bytes], seconds: float) -> list[float]:
        """Each connection sends the next of the messages when its last is answered; seconds of each answer.

        Requests that are under way at the end are waited for and counted out.
        """
        sent, took, turn = dict[int, float](), list[float](), 0
        for number in self._sockets:
            sent[number] = self._send(number, messages[turn % len(messages)])
            turn += 1
        end = time.perf_counter() + seconds
        while sent:
            for number in self._answered():
                now = time.perf_counter()
                before = sent.pop(number)
                if now < end:
                    took.append(now - before)
                    sent[number] = self._send(number, messages[turn % len(messages)])
                    turn += 1
        return took

    def _send(self, number: int, message: bytes) -> float:
        self._sockets[number].sendall(message)
        return time.perf_counter()

    def _answered(self) -> list[int]:
        """Connections whose answer has come to its end; waits for something to come.

        Raises:
            ServerError: nothing comes, a connection ends, or an answer is not 200.
        """
        events = self._poll.poll(PATIENCE)
        if not events:
            raise ServerError(f"no answer within {PATIENCE:.0f} s")
        return [number for number, _ in events if self._read(number)]

    def _read(self, number: int) -> bool:
        """Read what has come; whether the answer is whole."""
        data = self._sockets[number].recv(CHUNK)
        if not data:
            raise ServerError("the server closed a connection")
        data = self._partial.pop(number, b"") + data
        head, end, body = data.partition(HEAD_END)
        found = LENGTH.search(head + b"\r\n") if end else None
        if found and not head.startswith(b"HTTP/1.1 200"):
            raise ServerError(f"answer: {data[:300]!r}")
        if found and len(body) >= int(found[1]):
            return True
        self._partial[number] = data
        return False
