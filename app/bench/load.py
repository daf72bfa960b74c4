"""The asynchronous client: closed and open loops of pictures, closed loops of streamed texts.

One process, one thread. It costs several times as much CPU time a request as wrk, and says how much it took.
"""

import asyncio
import math
import random
import resource
import time
from collections.abc import Iterator
from contextlib import suppress

import aiohttp

from app.bench.result import Result, Tally, TextResult, percentiles
from app.bench.stream import Stream
from app.bench.target import TIMEOUT, Target

CLIENT = "aiohttp"
MAX_OUTSTANDING = 8192  # of an open loop; twice the service's default queue, so that it refuses before we give up
SPARE_FILES = 64  # open files beside the connections
PAUSE = 0.01  # seconds after a request without an answer, lest a dead server be asked in a busy loop


def open_files(wanted: int) -> int:
    """Let this process, and those it starts, have so many connections if the system does; how many they may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted + SPARE_FILES if hard == resource.RLIM_INFINITY else min(wanted + SPARE_FILES, hard)
    if limit > soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        soft = limit
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, soft - SPARE_FILES)


class Stopwatch:
    """Seconds and CPU seconds of this process since it was made."""

    def __init__(self) -> None:
        self.start, self._cpu = time.perf_counter(), time.process_time()

    def read(self, sending: float = math.inf) -> dict[str, float]:
        """Three fields of a `Result`; requests were sent for so many seconds, or all the time."""
        elapsed = time.perf_counter() - self.start
        seconds = min(sending, elapsed)
        return {
            "seconds": seconds,
            "tail_seconds": elapsed - seconds,
            "client_cpu_seconds": time.process_time() - self._cpu,
        }


def _session(target: Target) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        headers=target.headers,
        timeout=TIMEOUT,
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def _send(session: aiohttp.ClientSession, target: Target) -> int:
    """One request, read to its end; its status, 0 for none."""
    try:
        async with session.post(target.url, data=target.body, allow_redirects=False) as response:
            await response.read()
            return response.status
    except (aiohttp.ClientError, OSError, TimeoutError):
        return 0


async def closed_loop(target: Target, clients: int, seconds: float) -> Result:
    """So many clients, each of which sends its next request when its last is answered; cut off at the end."""
    tally = Tally()

    async def client(session: aiohttp.ClientSession) -> None:
        while True:
            sent = time.perf_counter()
            status = await _send(session, target)
            tally.count(status, sent)
            if not status:
                await asyncio.sleep(PAUSE)

    async with _session(target) as session:
        watch = Stopwatch()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for _ in range(clients):
                    group.create_task(client(session))
        took = watch.read()
    return _result(tally, took, mode="closed", clients=clients)


def _result(tally: Tally, took: dict[str, float], *, mode: str, clients: int, offered: float | None = None) -> Result:
    p50, p90, p99, most = percentiles(tally.latencies, (0.5, 0.9, 0.99, 1.0))
    return Result(
        mode=mode,
        client=CLIENT,
        clients=clients,
        offered=offered,
        answered=len(tally.latencies),
        in_time=tally.in_time,
        refused=tally.refused,
        failed=tally.failed,
        p50=p50,
        p90=p90,
        p99=p99,
        max=most,
        **took,
    )


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Moments of a Poisson process of so many events per second, from 0 up to `seconds`; the same for the same seed."""
    draw = random.Random(seed)  # noqa: S311  # a schedule, not a secret
    moment = draw.expovariate(rate)
    while moment < seconds:
        yield moment
        moment += draw.expovariate(rate)


async def open_loop(target: Target, rate: float, seconds: float, seed: int) -> Result:
    """Requests that leave at drawn moments, whether or not earlier ones are answered; then waits for the answers.

    Latency counts from the moment drawn, so a client or a service that falls behind can't hide it; the timer's own
    lateness, 1 ms at most on an idle machine, is in it. At most `MAX_OUTSTANDING` requests, or what the limit on open
    files allows, wait at once; what would go beyond fails unsent.
    """
    tally, waiting, most, bound = Tally(), 0, 0, open_files(MAX_OUTSTANDING)

    async def one(session: aiohttp.ClientSession, due: float) -> None:
        nonlocal waiting
        status = await _send(session, target)
        tally.count(status, due)
        waiting -= 1

    async with _session(target) as session:
        watch = Stopwatch()
        tally.end = watch.start + seconds
        async with asyncio.TaskGroup() as group:
            for moment in arrivals(rate, seconds, seed):
                due = watch.start + moment
                await asyncio.sleep(max(0.0, due - time.perf_counter()))  # 0 too lets answers in
                if waiting >= bound:
                    tally.failed += 1
                    continue
                waiting += 1
                most = max(most, waiting)
                group.create_task(one(session, due))
        took = watch.read(seconds)
    return _result(tally, took, mode="open", clients=most, offered=rate)


async def text_closed_loop(target: Target, clients: int, seconds: float) -> TextResult:
    """So many streams at once; after the end none is begun, and those that run are read to theirs."""
    streams, watch = list[Stream](), Stopwatch()
    tally = Tally(end=watch.start + seconds)

    async def client(session: aiohttp.ClientSession) -> None:
        while time.perf_counter() < tally.end:
            stream = Stream(time.perf_counter())
            status = await _read(session, target, stream)
            tally.count(status, stream.sent)
            if stream.done:
                streams.append(stream)
            if not status:
                await asyncio.sleep(PAUSE)

    async with _session(target) as session, asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client(session))
    result = _result(tally, watch.read(seconds), mode="closed", clients=clients)
    return _text_result(result, streams, tally.end, seconds)


async def _read(session: aiohttp.ClientSession, target: Target, stream: Stream) -> int:
    """One text; its status, 0 when it did not come to its end."""
    try:
        async with session.post(target.url, data=target.body, allow_redirects=False) as response:
            if response.status != 200:
                await response.read()
                return response.status
            async for data in response.content.iter_any():
                stream.feed(data, time.perf_counter())
            return 200 if stream.done else 0
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return 0


def _text_result(result: Result, streams: list[Stream], end: float, seconds: float) -> TextResult:
    first = [stream.first for stream in streams if stream.first is not None]
    between = [stream.between for stream in streams if stream.between is not None]
    rates = [stream.rate for stream in streams if stream.rate is not None]
    first_p50, first_p99 = percentiles(first, (0.5, 0.99))
    between_p50, between_p99 = percentiles(between, (0.5, 0.99))
    return TextResult(
        **vars(result),
        tokens_per_second=sum(stream.tokens_until(end) for stream in streams) / seconds,
        stream_tokens_per_second=percentiles(rates, (0.5,))[0],
        first_p50=first_p50,
        first_p99=first_p99,
        between_p50=between_p50,
        between_p99=between_p99,
    )
