"""A small job that shows whether an engine that has been idle for long still computes."""

import asyncio
import time

import numpy as np

from app.engine.engine import Engine
from app.engine.jobs import LatentJob, ModelInfo, SequenceJob
from app.engine.terms import Terms
from app.errors import GenserveError, Overloaded

IDLE_SECONDS = 30.0  # without anything computed, after which the next probe wants to see something
LOOK_SECONDS = 0.1
TERMS = Terms(client="canary", seconds=5.0, origin=lambda: b"canary")


class Canary:
    """Probes of one engine; several that come at once share one job."""

    def __init__(self, engine: Engine, idle_seconds: float = IDLE_SECONDS) -> None:
        self._engine = engine
        self._idle_seconds = idle_seconds
        self._running: asyncio.Task[str | None] | None = None

    async def trouble(self) -> str | None:
        """What is wrong; None when something was computed not long ago, or is now."""
        if time.monotonic() - self._engine.computed < self._idle_seconds:
            return None
        if self._running is None or self._running.done():
            self._running = asyncio.ensure_future(self._probe())
        running = self._running
        while self._engine.ready and not (await asyncio.wait({running}, timeout=LOOK_SECONDS))[0]:
            pass  # a worker that ends meanwhile is no reason to wait for the next one
        return running.result() if running.done() else None

    async def _probe(self) -> str | None:
        info = next((info for info in self._engine.models.values() if info.error is None), None)
        if info is None:
            return "no model is served"
        try:
            await (self._picture(info) if info.kind == "latent" else self._token(info))
        except Overloaded:  # busy is not broken: what waits will show it
            return None
        except GenserveError as error:
            return f"a small job of {info.name} failed: {error.detail}"
        return None

    async def _picture(self, info: ModelInfo) -> None:
        await self._engine.submit(
            LatentJob(info.name, np.ones((1, *info.latent_shape), np.float32), np.zeros(1, np.int64)), TERMS
        )

    async def _token(self, info: ModelInfo) -> None:
        async for _ in self._engine.stream([SequenceJob(info.name, (0,), 1, seed=0)], TERMS):
            pass
