"""The threads that turn large pictures into files, and files into pictures: what waits for them, and for how long.

Knows pixels, formats and seconds; what is done there is the service's business.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, Protocol, TypeAlias, TypeVar

from app.animation import AnimationFormat
from app.codecs import ImageFormat
from app.engine.promises import Promises
from app.engine.terms import Terms
from app.errors import DeadlineExceeded, Overloaded
from app.telemetry import Telemetry

THREADS = 2
FRESH = 0.7  # of a request's time may be taken by what waits for the encoders
KEPT = 0.9  # for one that was told to come now
SMOOTHING = 0.3  # weight of the newest picture in the learned seconds a pixel
STEADY = 1 << 16  # pixels; the fewer a file has, the less is it they that take its time, and the less does it weigh
Work: TypeAlias = ImageFormat | AnimationFormat | Literal["upload"]  # a format to encode in, or a file to read
# Seconds a pixel.
FIRST_GUESS: dict[Work, float] = {"png": 1e-8, "apng": 1e-8, "webp": 1e-7, "webp-animation": 5e-7, "upload": 3e-8}
LATE: dict[Work, str] = {"upload": "the picture was not read in time"}
ENCODED_LATE = "the pictures were computed, but not encoded in time"

T = TypeVar("T")


class Watch(Protocol):
    """Awaits futures on behalf of one client, and cancels them when it leaves."""

    async def __call__(self, future: asyncio.Future[T]) -> T:
        """The future's result."""
        ...


class Encoders:
    """A few threads with a queue whose length is known in seconds."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="encode")
        self._pixel_seconds = dict(FIRST_GUESS)
        self._backlog = 0.0
        self._promises = Promises()

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def reserve(self, pixels: int, work: Work, terms: Terms) -> float:
        """Take note of pixels that will have to be worked on; the predicted seconds, to be given back with `release`.

        Raises:
            Overloaded: what waits already would take too much of the request's time.
        """
        seconds = pixels * self._pixel_seconds[work]
        wait = self._backlog / THREADS + seconds
        if self._backlog and wait > FRESH * terms.seconds:
            key = (terms.client, terms.digest())
            if wait > KEPT * terms.seconds or not self._promises.redeem(key):
                self._telemetry.rejected.labels("encoders").inc()
                after = self._promises.make(key, wait - FRESH * terms.seconds, seconds / THREADS)
                done = "read" if work == "upload" else "encoded"
                said = f"it would be {done} in {wait:.2f} s; it has {terms.seconds:.2f} s"
                raise Overloaded(said, retry_after=after)
        self._backlog += seconds
        return seconds

    def release(self, seconds: float) -> None:
        """It is done, or will not be."""
        self._backlog = max(0.0, self._backlog - seconds)

    async def run(
        self,
        call: Callable[[], T],
        pixels: int,
        work: Work,
        watch: Watch,
        deadline: float,
    ) -> T:
        """Call in a thread; nothing is begun for a client that has left, or whose time is over.

        Args:
            call: what encodes or reads.
            pixels: that it works on.
            work: of which kind.
            watch: awaits the future and cancels it when the client leaves.
            deadline: by the loop's clock.

        Raises:
            DeadlineExceeded: it was not done by then.
        """
        loop = asyncio.get_running_loop()

        def timed() -> T:
            start = time.perf_counter()
            result = call()
            loop.call_soon_threadsafe(self._learn, work, time.perf_counter() - start, pixels)  # even if it is late
            return result

        async def made() -> T:  # for whom is gone by then, nothing is even queued
            return await loop.run_in_executor(self._pool, timed)

        try:
            async with asyncio.timeout_at(deadline):
                return await watch(asyncio.ensure_future(made()))
        except TimeoutError:
            raise DeadlineExceeded(LATE.get(work, ENCODED_LATE)) from None

    def _learn(self, work: Work, seconds: float, pixels: int) -> None:
        """Take note of what a pixel took."""
        known, weight = self._pixel_seconds[work], SMOOTHING * min(1.0, pixels / STEADY) ** 2
        self._pixel_seconds[work] = known + weight * (seconds / pixels - known)
