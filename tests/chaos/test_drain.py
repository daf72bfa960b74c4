"""Signals under load: what was admitted is answered, what comes later is refused, and nothing is left behind."""

import asyncio
import os
import signal

import pytest

from tests.chaos import asks
from tests.chaos.clients import clients
from tests.chaos.hold import hold
from tests.chaos.server import metric, readiness, started, worker
from tests.serving import alive, eventually, wait_until

HOLD_SECONDS = 1.0
ADMITTED = [asks.picture(seed, 1 + seed % 8) for seed in range(40)]
ADMITTED += [asks.text(letter, 60) for letter in "abcdef"]
ADMITTED += [asks.text(letter, 60, mark="\x01Z", stream=True) for letter in "ghij"]
ADMITTED += [asks.picture(5, 8, "wide")]
QUEUED = 190  # nearly all rows of these


def draining(server):
    try:
        return readiness(server) == (503, "draining")
    except OSError:  # it is gone already
        return True


async def newcomers(server, until):
    """Requests that come after the signal."""
    outcomes, seed = [], 10_000
    async with clients(server.url, source="127.0.0.2") as late:
        while not until.done():
            seed += 1
            outcomes.append(await late.ask(asks.picture(seed)))
            await asyncio.sleep(0.01)
    return outcomes


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_drains(chaos_weights, sig):
    with started(chaos_weights, threads=2) as server:
        pid = worker(server)
        async with clients(server.url) as some:
            held = await hold(server, some, HOLD_SECONDS, threads=2)
            admitted = asyncio.ensure_future(some.ask_all(ADMITTED))
            await eventually(lambda: metric(server, "genserve_queue_depth") >= QUEUED)
            server.process.send_signal(sig)
            await eventually(lambda: draining(server))
            outcomes, late = await asyncio.gather(admitted, newcomers(server, admitted))
            outcomes += await held
        assert {str(outcome) for outcome in outcomes} == {"answered 200"}
        assert {str(outcome) for outcome in late} <= {"refused 503 draining", "closed 0"}
        assert server.wait_exit() == 0
        wait_until(lambda: not alive(pid), "the worker outlives the server")


async def test_the_second_signal_stops_at_once(chaos_weights):
    """The drain would take minutes; nobody is left without an end all the same."""
    with started(chaos_weights, drain_seconds=3600, watchdog=600) as server:
        pid = worker(server)
        async with clients(server.url) as some:
            held = await hold(server, some, 120)
            admitted = asyncio.ensure_future(some.ask_all(asks.picture(seed) for seed in range(20)))
            await eventually(lambda: metric(server, "genserve_queue_depth") == 21)
            server.terminate()
            await eventually(lambda: draining(server))
            server.terminate()
            outcomes = [*await admitted, *await held]
        assert {outcome.kind for outcome in outcomes} <= {"refused", "closed"}
        server.wait_exit()
        wait_until(lambda: not alive(pid), "the worker outlives the server")


async def test_a_worker_that_is_lost_during_the_drain(chaos_weights):
    """Everybody gets an answer or an end, and the process its own."""
    with started(chaos_weights, threads=2, drain_seconds=15) as server:
        pid = worker(server)
        async with clients(server.url) as some:
            held = await hold(server, some, HOLD_SECONDS, threads=2)
            admitted = asyncio.ensure_future(some.ask_all(ADMITTED))
            await eventually(lambda: metric(server, "genserve_queue_depth") >= QUEUED)
            server.terminate()
            await eventually(lambda: draining(server))
            os.kill(pid, signal.SIGKILL)
            outcomes = [*await admitted, *await held]
        kinds = {outcome.kind for outcome in outcomes}
        assert kinds <= {"answered", "refused", "broken"}, list(map(str, outcomes))
        assert server.wait_exit() in (0, 3)
        wait_until(lambda: not server.workers and not alive(pid), "a worker is left behind")
