"""Keeps the device busy for a moment, so that what is sent meanwhile is all in flight at once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from pathlib import Path

from tests import fakes
from tests.chaos import asks
from tests.chaos.asks import Ask
from tests.chaos.clients import Clients, Outcome
from tests.chaos.server import gate, metric
from tests.serving import Server, eventually

BEGUN_SECONDS = 0.1  # from the queue to the device


async def hold(server: Server, some: Clients, seconds: float, *, threads: int = 1) -> Awaitable[list[Outcome]]:
    """Returns when so many compute threads are held, or the next batches of theirs will be; gives the holders' answers.

    A second thread takes a batch only when several rows wait: the second holder goes with the first of what follows.
    """
    return await _one_by_one(server, some, [asks.slow(seconds, place / 8) for place in range(1, threads + 1)])


@contextlib.asynccontextmanager
async def gated(server: Server, some: Clients, weights: Path) -> AsyncIterator[Awaitable[list[Outcome]]]:
    """The same by pictures to be encoded, until the block ends; the watchdog allows it a few seconds."""
    with shut(gate(weights)):
        holders = [asks.encode(place, first=fakes.POISON[fakes.GATE]) for place in range(server.threads)]
        yield await _one_by_one(server, some, holders)


@contextlib.contextmanager
def shut(gate: Path) -> Iterator[None]:
    """The gate is shut for the length of the block."""
    gate.touch()
    try:
        yield
    finally:
        gate.unlink()


async def _one_by_one(server: Server, some: Clients, holders: Sequence[Ask]) -> Awaitable[list[Outcome]]:
    base, held = metric(server, "genserve_queue_depth"), []
    for place, ask in enumerate(holders, 1):
        held.append(asyncio.ensure_future(some.ask(ask.within(3600))))
        await eventually(lambda place=place: metric(server, "genserve_queue_depth") >= base + place)
        await asyncio.sleep(BEGUN_SECONDS)
    return asyncio.gather(*held)
