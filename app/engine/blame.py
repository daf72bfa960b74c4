"""Requests that ended a worker all by themselves, remembered for a while."""

import time
from collections import OrderedDict
from collections.abc import Callable

SECONDS = 300.0
MOST = 1024  # the oldest are forgotten first


class Blame:
    """Digests of requests, each until its time is over."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def put(self, digest: bytes) -> None:
        """Remember a request."""
        self._until[digest] = self._clock() + SECONDS
        self._until.move_to_end(digest)
        if len(self._until) > MOST:
            self._until.popitem(last=False)

    def holds(self, digest: Callable[[], bytes]) -> bool:
        """Whether a request is one of those; costs nothing while there are none."""
        while self._until and next(iter(self._until.values())) <= self._clock():
            self._until.popitem(last=False)
        return bool(self._until) and digest() in self._until
