"""Clients that send or take their bytes slowly, or stop without a word: cut off in time, and nobody waits for them."""

import asyncio
import contextlib
import time
from pathlib import Path

import pytest

from tests.chaos import asks
from tests.chaos.clients import PATIENCE, clients, connect, exchange, leave
from tests.chaos.proxy import Fault, proxied
from tests.chaos.server import CONNECTIONS, READ_SECONDS, SLOTS, WRITE_SECONDS, metric
from tests.serving import eventually

CROWD = 24
LARGE = asks.picture(5, 16, "wide")  # four megabytes and more
MANY_TEXTS = asks.text("a", 400, stream=True, n=16)
GOOD = [asks.picture(seed) for seed in range(12)] + [asks.text("m", 12), asks.text("n", 12, stream=True)]
GOOD += [asks.encode(seed) for seed in range(4)]


async def served_beside(server, *bad):
    """What bad clients come to, while good ones go on being served: one round after the other until all is over."""
    waiting = asyncio.gather(*bad)
    async with clients(server.url) as good:
        while True:
            outcomes = await good.ask_all(GOOD)
            assert {str(outcome) for outcome in outcomes} == {"answered 200"}
            if waiting.done():
                return await waiting


SENT = {
    "half a head": 50,
    "a head": len(asks.picture(1).raw().partition(b"\r\n\r\n")[0]) + 4,
    "half a body": len(asks.picture(1).raw()) - 5,
}


@pytest.mark.parametrize("count", SENT.values(), ids=SENT)
async def test_requests_that_stop_half_way(server, count):
    """They get 408, or the end of the connection, once their time is over; not at once, and not never."""
    data = asks.picture(1).raw()[:count]
    start = time.monotonic()
    ends = await served_beside(server, *(exchange(server.url, data) for _ in range(CROWD)))
    assert time.monotonic() - start > READ_SECONDS / 2
    for answer, closed in ends:
        assert closed, "the connection is left open"
        assert not answer or answer.startswith(b"HTTP/1.1 408"), answer[:300]


@pytest.mark.parametrize("rate", [10, 40])
async def test_requests_that_trickle_in(server, rate):
    """A byte now and then does not buy more time."""
    data = asks.picture(1).raw()
    async with proxied(server.url, up=Fault(rate=rate)) as url:
        ends = await served_beside(server, *(exchange(url, data, PATIENCE) for _ in range(CROWD)))
    for answer, closed in ends:
        assert closed, "the connection is left open"
        assert not answer or answer.startswith(b"HTTP/1.1 408"), answer[:300]


async def test_readers_that_stop_reading(server):
    """Half-open: their connections stay up and nothing is taken from them. The server lets go of them in time."""
    read = 4096
    async with proxied(server.url, down=Fault(after=read, then="stall")) as url:
        readers = [asyncio.ensure_future(leave(url, LARGE.raw(), read=read, linger=2 * PATIENCE)) for _ in range(4)]
        try:
            await served_beside(server, asyncio.sleep(WRITE_SECONDS))
            async with asyncio.timeout(PATIENCE / 2):
                await eventually(lambda: open_connections(server) == 0)
            assert not any(reader.done() for reader in readers), "it was the readers who left"
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)


def open_connections(server):
    """Connections of the server's port that it still holds, save the one that asks."""
    port = int(server.url.rpartition(":")[2])
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(fields[1] == f"0100007F:{port:04X}" and fields[3] == "01" for fields in lines)


async def test_a_steady_reader_may_be_slow(server):
    """It takes longer than the limit for a client that takes nothing, and gets all of it."""
    ask = asks.picture(5, 8, "wide")
    async with proxied(server.url, down=Fault(rate=400_000)) as url, clients(url) as slow:
        (outcome,) = await served_beside(server, slow.ask(ask))
    assert str(outcome) == "answered 200"
    assert outcome.seconds > WRITE_SECONDS, "the reader was not slow"


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_networks_that_break(server, then):
    """The client sees it, the server forgets the request."""
    down = Fault(after=2000, then=then)
    async with proxied(server.url, down=down) as url, clients(url) as broken:
        requests = [LARGE, MANY_TEXTS, LARGE, asks.text("c", 400, mark="\x01Z", stream=True)] * 2
        outcomes = await served_beside(server, *(broken.ask(ask) for ask in requests))
    assert {outcome.kind for outcome in outcomes} <= {"cut", "closed"}
    await eventually(lambda: metric(server, "genserve_slots_busy") == 0)


async def test_a_silent_network_half_way_through_a_request(server):
    """The request's second half never comes, though the connection stays."""
    size = len(asks.picture(1).raw()) - 10
    async with proxied(server.url, up=Fault(after=size, then="stall")) as url:
        ends = await served_beside(server, *(exchange(url, asks.picture(1).raw()) for _ in range(8)))
    assert all(closed for _, closed in ends)


async def test_more_connections_than_allowed(server):
    """What is beyond the limit is closed; once there is room, anybody is served again."""
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(await connect(server.url)) for _ in range(CONNECTIONS + 40)]
        loop = asyncio.get_running_loop()
        extra = [loop.sock_recv(sock, 1) for sock in idle[CONNECTIONS:]]
        async with asyncio.timeout(PATIENCE):
            ends = await asyncio.gather(*extra, return_exceptions=True)
        assert all(end == b"" or isinstance(end, OSError) for end in ends)
    async with clients(server.url) as good:
        await eventually(lambda: open_connections(server) < CONNECTIONS // 2)
        assert {str(outcome) for outcome in await good.ask_all(GOOD)} == {"answered 200"}


async def test_all_slots_taken_by_readers_that_stop(server):
    """Streams that nobody reads hold their slots no longer than it takes to make them."""
    async with proxied(server.url, down=Fault(after=300, then="stall")) as url:
        data = asks.text("a", 100, stream=True).raw()
        readers = [asyncio.ensure_future(leave(url, data, read=300, linger=PATIENCE)) for _ in range(2 * SLOTS)]
        try:
            await served_beside(server, asyncio.sleep(0.5))
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
