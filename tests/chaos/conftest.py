"""Servers that several tests share; after each test they must hold no more than before it."""

import asyncio

import pytest

from tests.chaos import asks
from tests.chaos.asks import LARGE
from tests.chaos.clients import clients
from tests.chaos.server import check_restored, settled, started, write_models


@pytest.fixture(scope="session")
def chaos_weights(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("chaos"))


@pytest.fixture(scope="session")
def sturdy(chaos_weights):
    """The server of the tests that no worker dies in; one thread, so that one slow request holds up all."""
    with started(chaos_weights, threads=1) as server:
        asyncio.run(_warm(server))
        yield server


@pytest.fixture(scope="session")
def fragile(chaos_weights):
    """The server of the tests in which the worker dies; two threads compute beside each other."""
    with started(chaos_weights, threads=2) as server:
        asyncio.run(_warm(server))
        yield server


async def _warm(server):
    """Have the pools and caches grown that the first requests grow."""
    async with clients(server.url) as some:
        requests = [asks.picture(seed, 4) for seed in range(8)] + [asks.picture(1, 4, "wide")]
        requests += [asks.text("a", 20, stream=True), asks.text("b", 20)]
        requests += [asks.encode(seed, scale=LARGE) for seed in range(8)]
        outcomes = await some.ask_all(requests)
    assert [str(outcome) for outcome in outcomes] == ["answered 200"] * len(outcomes)


async def _watched(server):
    before, pid = settled(server), server.process.pid
    logged = len(server.lines)
    yield server
    check_restored(server, before)
    async with clients(server.url) as some:
        outcomes = await some.ask_all([asks.picture(1, 2), asks.text("a", 3), asks.encode(1)])
    assert {str(outcome) for outcome in outcomes} == {"answered 200"}
    assert server.process.pid == pid
    assert "internal_error" not in "\n".join(server.lines[logged:])


@pytest.fixture
async def server(sturdy):
    """The shared server; afterwards it must be as it was."""
    async for server in _watched(sturdy):
        yield server


@pytest.fixture
async def victim(fragile):
    """The shared server whose worker may be killed; afterwards it must be as it was."""
    async for server in _watched(fragile):
        yield server
