"""The threads that turn large pictures into files: what waits for them, how long that takes, and whether it is in time.

Knows pixels, formats and seconds; what is encoded is the service's business.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from app.codecs import ImageFormat
from app.engine.promises import Promises
from app.engine.terms import Terms
from app.errors import DeadlineExceeded, Overloaded
from app.telemetry import Telemetry

THREADS = 2
FRESH = 0.7  # of a request's time may be taken by what waits for the encoders
KEPT = 0.9  # for one that was told to come now
SMOOTHING = 0.3  # weight of the newest picture in the learned seconds a pixel
FIRST_GUESS: dict[ImageFormat, float] = {"png": 1e-8, "webp": 1e-7}  # seconds a pixel

T = TypeVar("T")


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

    def reserve(self, pixels: int, image_format: ImageFormat, terms: Terms) -> float:
        """Take note of pictures that will have to be encoded; the predicted seconds, to be given back with `release`.

        Raises:
            Overloaded: what waits already would take too much of the request's time.
        """
        seconds = pixels * self._pixel_seconds[image_format]
        wait = self._backlog / THREADS + seconds
        if self._backlog and wait > FRESH * terms.seconds:
            key = (terms.client, terms.digest())
            if wait > KEPT * terms.seconds or not self._promises.redeem(key):
                self._telemetry.rejected.labels("encoders").inc()
                after = self._promises.make(key, wait - FRESH * terms.seconds, seconds / THREADS)
                said = f"it would be encoded in {wait:.2f} s; it has {terms.seconds:.2f} s"
                raise Overloaded(said, retry_after=after)
        self._backlog += seconds
        return seconds

    def release(self, seconds: float) -> None:
        """Pictures are encoded, or will not be."""
        self._backlog = max(0.0, self._backlog - seconds)

    async def run(
        self,
        call: Callable[[], T],
        pixels: int,
        image_format: ImageFormat,
        watch: Callable[[asyncio.Future[T]], Awaitable[T]],
        deadline: float,
    ) -> T:
        """Call in a thread; nothing is begun for a client that has left, or whose time is over.

        Args:
            call: what encodes.
            pixels: that it encodes.
            image_format: into which.
            watch: awaits the future and cancels it when the client leaves.
            deadline: by the loop's clock.

        Raises:
            DeadlineExceeded: it was not done by then.
        """

        def timed() -> tuple[T, float]:
            start = time.perf_counter()
            return call(), time.perf_counter() - start

        async def made() -> T:
            result, seconds = await asyncio.get_running_loop().run_in_executor(self._pool, timed)
            known = self._pixel_seconds[image_format]
            self._pixel_seconds[image_format] = known + SMOOTHING * (seconds / pixels - known)
            return result

        try:
            async with asyncio.timeout_at(deadline):
                return await watch(asyncio.ensure_future(made()))
        except TimeoutError:
            raise DeadlineExceeded("the pictures were computed, but not encoded in time") from None
