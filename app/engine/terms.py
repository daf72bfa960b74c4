"""On what terms a request is taken: for whom, by when, and what to know it by if it comes again."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

DEFAULT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Terms:
    """Of one request.

    Attributes:
        client: whose it is; clients take turns.
        seconds: that it has, from now: for the whole answer, or for the first token of a stream.
        origin: what was asked for, without what was drawn for it: the same request gives the same bytes. Called only
            when it matters.
        whole: nothing is sent before everything is there, so that it may be computed again unseen.
    """

    client: str = ""
    seconds: float = DEFAULT_SECONDS
    origin: Callable[[], bytes] = bytes
    whole: bool = True

    def digest(self) -> bytes:
        """Of what was asked for."""
        return hashlib.blake2b(self.origin(), digest_size=16).digest()
