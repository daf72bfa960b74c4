"""What one client may take of the HTTP server, and the sweep that sees to it.

Knows time and numbers; what a connection does about them is its own business.
"""

import asyncio
import logging
import math
import resource
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

KEEP_ALIVE_SECONDS = 75.0
LINGER_SECONDS = 1.0  # for a client to read why it was refused, before its connection is closed
MAX_SWEEP_SECONDS = 1.0
MIN_SWEEP_SECONDS = 0.01
OTHER_FILES = 1024  # open files beside the connections: workers, logs, what is accepted only to be closed

log = logging.getLogger("genserve.connections")


@dataclass(frozen=True)
class Limits:
    """What an operator may decide about connections.

    Attributes:
        max_header: bytes of a request line and its headers.
        read_timeout: seconds in which a request's head and body must come, from its first byte.
        write_timeout: seconds for which a client may take nothing of what waits for it.
        max_connections: connections at once; further ones are closed.
        keep_alive: seconds without a request, before the first one too.
    """

    max_header: int = 1 << 15
    read_timeout: float = 30.0
    write_timeout: float = 30.0
    max_connections: int = 8192
    keep_alive: float = KEEP_ALIVE_SECONDS


class Watched(Protocol):
    """A connection, as far as the sweep knows it."""

    def check(self) -> None:
        """End what takes too long."""


class Sweep:
    """Looks at all connections every second or so, while there are any: a request sets no timer.

    Its clock counts sweeps. So it stands still while the event loop is held up: what a client has sent meanwhile is
    read before anybody calls it late. All times are rounded up, by less than two sweeps.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        shortest = min(limits.read_timeout, limits.write_timeout, limits.keep_alive)
        self._every = max(MIN_SWEEP_SECONDS, min(MAX_SWEEP_SECONDS, shortest / 4))
        self.now = 0
        self.read, self.write = self.sweeps(limits.read_timeout), self.sweeps(limits.write_timeout)
        self.idle, self.linger = self.sweeps(limits.keep_alive), self.sweeps(LINGER_SECONDS)
        self._connections: Collection[Watched] = ()
        self._timer: asyncio.TimerHandle | None = None
        self._refused = self._said = 0

    def sweeps(self, seconds: float) -> int:
        """After how many sweeps at least so many seconds have passed; the first one may come at once."""
        return math.ceil(seconds / self._every) + 1

    def watch(self, connections: Collection[Watched]) -> None:
        """Look at these from now on, until there are none."""
        if self._timer is None:
            self._connections = connections
            self._timer = asyncio.get_running_loop().call_later(self._every, self._look)

    def refused(self) -> None:
        """Count a connection that was one too many."""
        self._refused += 1

    def _look(self) -> None:
        self.now += 1
        self._timer = None
        if self._connections:
            self.watch(self._connections)
        for connection in tuple(self._connections):
            connection.check()
        self._tell()

    def _tell(self) -> None:
        """One line for many refusals, at most once a second."""
        if self._refused and (not self._timer or self.now - self._said >= 1 / self._every):
            most = self.limits.max_connections
            log.warning("%d connections closed at once: max_connections is %d", self._refused, most)
            self._refused, self._said = 0, self.now


def allow_files(connections: int) -> None:
    """Raise the limit of open files to what so many connections need, as far as that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        log.warning("max_connections %d needs %d open files, but only %d are allowed", connections, needed, allowed)
