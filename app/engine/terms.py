"""On what terms a request is taken: for whom, by when, and what to know it by if it comes again."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from app.errors import DeadlineExceeded

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
        further: tokens that the same request will ask for again for each of its sequences, once these are done.
        asked: seconds that the client gave, of which `seconds` are left; 0 where these are all.
        admitted: a stage of the request has been computed already, so that nothing but a lost engine stops the next.
    """

    client: str = ""
    seconds: float = DEFAULT_SECONDS
    origin: Callable[[], bytes] = bytes
    whole: bool = True
    further: int = 0
    asked: float = 0.0
    admitted: bool = False

    @property
    def given(self) -> float:
        """Seconds that the client gave for all of it."""
        return self.asked or self.seconds

    def left(self, deadline: float) -> "Terms":
        """The same terms for what is left of a request's time, up to a deadline by the loop's clock.

        Raises:
            DeadlineExceeded: nothing is left.
        """
        seconds = deadline - asyncio.get_running_loop().time()
        if seconds <= 0:
            raise DeadlineExceeded(f"the answer was not there in {self.given:g} s")
        return replace(self, seconds=seconds, asked=self.given)

    def onward(self, deadline: float) -> "Terms":
        """The terms of the next stage of a request that was let in.

        Raises:
            DeadlineExceeded: nothing is left.
        """
        return replace(self.left(deadline), admitted=True)

    def digest(self) -> bytes:
        """Of what was asked for."""
        return hashlib.blake2b(self.origin(), digest_size=16).digest()
