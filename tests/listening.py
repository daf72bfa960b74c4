"""The HTTP server in this process, on uvloop and in a thread of its own: its clients may block, stall and lie."""

import contextlib
import json
import re
import socket
import threading

from app.limits import Limits
from app.server import Server
from tests.serving import PATIENCE, wait_until


@contextlib.contextmanager
def listening(app, **limits):
    """Serve the application with these limits; gives host and port."""
    server = Server(app, "127.0.0.1", 0, 1.0, Limits(**limits))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, "the server does not start")
        yield server.servers[0].sockets[0].getsockname()
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
    assert not thread.is_alive()


class Client:
    """A raw socket, and what has come over it."""

    def __init__(self, address, receive_buffer=None):
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(address)
        self._received = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def get(self, path, extra=b""):
        self.send(request(path, extra))

    def answer(self):
        """The next answer: status, headers, body."""
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = int(headers["content-length"])
        while len(self._received) < size:
            self._receive()
        body, self._received = self._received[:size], self._received[size:]
        return int(re.fullmatch(r"HTTP/1.1 (\d+) .*", first)[1]), headers, body

    def problem(self):
        """The last answer, which has to be a problem: its code."""
        status, headers, body = self.answer()
        problem = json.loads(body)
        assert headers["content-type"] == "application/problem+json"
        assert headers["connection"] == "close"
        assert headers["x-request-id"] == problem["request_id"]
        assert problem["status"] == status
        assert problem["type"] == f"urn:genserve:error:{problem['code']}"
        assert problem["title"]
        assert problem["detail"]
        assert self.rest() == b""
        return status, problem["code"]

    def rest(self):
        """All that comes until the server closes the connection."""
        with contextlib.suppress(ConnectionResetError):
            while part := self.socket.recv(1 << 16):
                self._received += part
        rest, self._received = self._received, b""
        return rest

    def _receive(self):
        part = self.socket.recv(1 << 16)
        assert part, f"closed after {self._received!r}"
        self._received += part


def request(path, extra=b"", method="GET"):
    """The head of a request."""
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n".encode() + extra + b"\r\n"
