"""The worker is killed or stopped from outside, under load: what it had is made again, and others merely wait."""

import asyncio
import os
import signal
import time

import pytest

from tests.chaos import asks
from tests.chaos.clients import PATIENCE, clients
from tests.chaos.hold import hold
from tests.chaos.server import metric, readiness, restarts, started, wait_ready, worker
from tests.serving import alive, eventually, wait_until

HOLD_SECONDS = 1.5
LONG = 3600  # a held device makes the foreseen waits long; nobody is to be refused for that


def load():
    """Pictures and texts of all sizes."""
    requests = [asks.picture(seed, 1 + seed % 16).within(LONG) for seed in range(40)]
    return requests + [asks.text(chr(ord("a") + place), 60).within(LONG) for place in range(8)]


def streams():
    return [asks.text(chr(ord("A") + place), 200, mark="\x01Z", stream=True) for place in range(4)]


async def in_flight(server, count):
    await eventually(lambda: metric(server, "genserve_queue_depth") >= count)


async def watch(server, until):
    """What readiness says, time and again, until it is over."""
    said = []
    while not until.done():
        said.append(await asyncio.to_thread(readiness, server))
        await asyncio.sleep(0.02)
    return said


async def newcomers(server, until):
    """Requests that come while the worker is being restarted."""
    outcomes, seed = [], 10_000
    async with clients(server.url, source="127.0.0.2") as late:
        while not until.done():
            seed += 1
            outcomes.append(await late.ask(asks.picture(seed).within(LONG)))
            await asyncio.sleep(0.02)
    return outcomes


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["kill -9", "kill -STOP"])
async def test_the_worker_is_lost_under_load(victim, blow):
    """Pictures and texts of which nothing was sent are made again; streams that had begun say why they end."""
    pid, before = worker(victim), restarts(victim)
    async with clients(victim.url) as some:
        flowing = asyncio.ensure_future(some.ask_all(streams()))
        await eventually(lambda: metric(victim, "genserve_slots_busy") == 4)
        await asyncio.sleep(0.2)
        held = await hold(victim, some, HOLD_SECONDS, threads=2)
        loaded = asyncio.ensure_future(some.ask_all(load()))
        await in_flight(victim, 300)
        os.kill(pid, blow)
        outcomes, said, late = await asyncio.gather(loaded, watch(victim, loaded), newcomers(victim, loaded))
        assert {str(outcome) for outcome in [*outcomes, *await held]} == {"answered 200"}
        assert {str(outcome) for outcome in await flowing} <= {"answered 200", "broken 200 worker_died"}
    assert {str(outcome) for outcome in late} <= {"answered 200", "refused 503 not_ready"}
    assert all("retry-after" in outcome.headers for outcome in late if outcome.kind == "refused")
    assert {status for status, _ in said} == {200, 503}, "readiness did not say that the worker was away"
    assert {status for code, status in said if code == 503} <= {"restarting", "loading"}
    wait_ready(victim)
    assert worker(victim) != pid
    assert restarts(victim) == before + 1
    wait_until(lambda: not alive(pid), "the lost worker is still there")


async def test_one_request_alone_is_not_to_blame(victim):
    """Killed from outside while it computed a single request: that is made again, for it may have been innocent."""
    async with clients(victim.url) as some:
        lone = await hold(victim, some, HOLD_SECONDS)
        os.kill(worker(victim), signal.SIGKILL)
        assert list(map(str, await lone)) == ["answered 200"]


async def test_lost_again_while_it_is_loaded(victim):
    """The second blow comes before the models are back: what waits goes on waiting."""
    async with clients(victim.url) as some:
        held = await hold(victim, some, HOLD_SECONDS, threads=2)
        waiting = asyncio.ensure_future(some.ask_all(load()))
        await in_flight(victim, 300)
        first = worker(victim)
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: victim.workers and victim.workers != [first])
        os.kill(worker(victim), signal.SIGKILL)
        assert {str(outcome) for outcome in [*await waiting, *await held]} == {"answered 200"}


async def test_the_other_worker_serves_on(chaos_weights):
    """One of two is lost: readiness stays, whatever comes is answered, and what the dead one had too."""
    with started(chaos_weights, "--device", "cpu,cpu", threads=1) as server:
        first, second = server.workers
        async with clients(server.url) as some:
            held = await hold(server, some, HOLD_SECONDS, threads=2)
            waiting = asyncio.ensure_future(some.ask_all(load()))
            await in_flight(server, 300)
            os.kill(first, signal.SIGKILL)
            outcomes, said, late = await asyncio.gather(waiting, watch(server, waiting), newcomers(server, waiting))
            outcomes += await held
        assert {str(outcome) for outcome in outcomes + late} == {"answered 200"}
        assert {status for status, _ in said} == {200}
        wait_until(lambda: len(server.workers) == 2, "the lost worker is not replaced")
        assert second in server.workers
        assert first not in server.workers


async def test_one_crash_after_the_other_ends_the_server(chaos_weights):
    """Two in a row are forgiven here; the third ends the process with status 3, and all in flight are told."""
    with started(chaos_weights, max_restarts=2) as server:
        workers = set()
        for _ in range(3):
            wait_until(lambda: set(server.workers) - workers, "the worker is not started again")
            pid = worker(server)
            workers.add(pid)
            wait_ready(server)
            async with clients(server.url) as some:
                await hold(server, some, HOLD_SECONDS)
                waiting = asyncio.ensure_future(some.ask_all([asks.picture(1), asks.text("a", 20)]))
                await in_flight(server, 3)
                os.kill(pid, signal.SIGKILL)
                outcomes = await waiting if len(workers) == 3 else await _leave(waiting)
        assert {outcome.kind for outcome in outcomes} <= {"refused", "closed"}
        assert {outcome.status for outcome in outcomes if outcome.kind == "refused"} <= {503}
        assert server.wait_exit() == 3
        wait_until(lambda: not any(map(alive, workers)), "a worker is left behind")


async def _leave(waiting):
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    return []


async def test_a_server_that_is_killed_leaves_no_worker(chaos_weights):
    """Not even one that hangs in the middle of a batch: the kernel, or the worker itself, sees to it."""
    with started(chaos_weights, watchdog=600) as server:
        pid = worker(server)
        async with clients(server.url) as some:
            held = await hold(server, some, HOLD_SECONDS)
            server.process.kill()
            server.process.wait(PATIENCE)
            assert [outcome.kind for outcome in await held] == ["closed"]
        wait_until(lambda: not alive(pid), "the worker outlives the server")


def test_recovery_is_quick(victim):
    """From the blow to ready again in less than half a minute, on a busy machine too; operations.md has the figures."""
    before, start = restarts(victim), time.monotonic()
    os.kill(worker(victim), signal.SIGKILL)
    wait_until(lambda: restarts(victim) > before, "nobody notices")
    wait_ready(victim)
    assert time.monotonic() - start < 30
