"""A transport that gathers what belongs together, and knows what its client has taken."""

import asyncio
import fcntl
import sys
import termios
from typing import Any

CORKED_BYTES = 1 << 14  # more is not worth copying into one piece


class Corked:
    """A transport that gathers what one turn of the event loop writes: a system call less for each answer.

    It holds no more than `CORKED_BYTES`: beyond them the transport itself has the bytes, and tells its protocol to
    pause when they are too many. So an application that writes without end waits for its client, even within one turn.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._call_soon = loop.call_soon
        self._held: list[bytes] = []
        self._size = 0
        self._written = 0
        self.is_closing = transport.is_closing  # asked for each answer, or in each sweep: not by way of __getattr__
        self.get_write_buffer_size = transport.get_write_buffer_size

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's own."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write at the end of this turn; what is large, at once."""
        size = self._size + len(data)
        if size > CORKED_BYTES:
            self._flush()
            self._send(data)
            return
        if not self._held:
            self._call_soon(self._flush)
        self._held.append(data)
        self._size = size

    def close(self) -> None:
        """Write what is held, then close."""
        self._flush()
        self._transport.close()

    def write_eof(self) -> None:
        """Write what is held, then close the writing side."""
        self._flush()
        if not self.is_closing():
            self._transport.write_eof()

    def taken(self) -> int:
        """How many of the bytes written so far the client's system has confirmed."""
        return self._written - self.get_write_buffer_size() - self._in_kernel()

    def _in_kernel(self) -> int:
        """Bytes in the socket's own buffer: megabytes, which a slow client takes for minutes before there is room."""
        try:
            count = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:  # not every system can tell
            return 0
        return int.from_bytes(count, sys.byteorder)

    def _flush(self) -> None:
        if self._held:
            held, self._held, self._size = self._held, [], 0
            self._send(b"".join(held))

    def _send(self, data: bytes) -> None:
        if not self.is_closing():  # uvloop's would raise once the client is gone
            self._written += len(data)
            self._transport.write(data)
