"""Keeps the device busy for a moment, so that what is sent meanwhile is all in flight at once."""

import asyncio
from collections.abc import Awaitable

from tests.chaos import asks
from tests.chaos.clients import Clients, Outcome
from tests.chaos.server import metric
from tests.serving import Server, eventually

BEGUN_SECONDS = 0.1  # from the queue to the device


async def hold(server: Server, some: Clients, seconds: float, *, threads: int = 1) -> Awaitable[list[Outcome]]:
    """Returns when so many compute threads are held, or the next batches of theirs will be; gives the holders' answers.

    A second thread takes a batch only when several rows wait: the second holder goes with the first of what follows.
    """
    base = metric(server, "genserve_queue_depth")
    holders = []
    for place in range(1, threads + 1):
        ask = asks.slow(seconds, place / 8).within(3600)
        holders.append(asyncio.ensure_future(some.ask(ask)))
        await eventually(lambda place=place: metric(server, "genserve_queue_depth") >= base + place)
        await asyncio.sleep(BEGUN_SECONDS)
    return asyncio.gather(*holders)
