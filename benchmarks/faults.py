"""The same five faults at the service and at its peers, all serving one toy network.

    python -m benchmarks.faults [--servers ...] [--faults ...] [--workers 1]

batch       1 bad request and 6 good ones in one batch: how many fail
departed    6 clients that left before their turn: how many are computed all the same
killed      kill -9 of the process that computes, under load: what clients see, and when it answers again
hung        kill -STOP of that process, likewise; genserve with GENSERVE_WATCHDOG=2, peers with a time limit of 2 s
terminated  SIGTERM with 8 requests in flight: how many are answered, the exit status, what is left running

Peers run as they are shipped, but for what helps: LitServe restarts its workers. Prints a table, writes
results/faults.json. Everything is bounded: a client gives up after 15 s.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import fault_client, fault_report, generators, machine
from benchmarks.fault_client import OK, Load, Outcome, ask, leave
from benchmarks.fault_servers import NAMES, Site, describe, site
from benchmarks.peers.faults import POISON, SLOW, SLOW_SECONDS, mark
from benchmarks.server import ServerError

ROUNDS = 3
CLIENTS = 8
GOOD, LEAVERS = 6, 6
LOAD_SECONDS = 1.0  # before a fault
CALM_SECONDS = 2.0  # for what was left undone to be done all the same
LIMIT = 2.0  # of a watchdog or a request, where a worker hangs
WARM_REQUESTS = 40  # of each of 8 clients: BentoML learns from some dozens how to batch
FIRST_SEED = 1000

Found = dict[str, Any]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def until(state: Callable[[], object], seconds: float) -> bool:
    """Wait for a state that nothing announces; False when it has not come in so many seconds."""
    deadline = time.monotonic() + seconds
    while not (there := state()) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return bool(there)


async def warm(here: Site) -> None:
    """As many requests as a server may need to find its pace."""
    load = Load(here.door, range(FIRST_SEED, FIRST_SEED + CLIENTS))
    running = asyncio.create_task(load.run())
    await until(lambda: len(load.outcomes) >= CLIENTS * WARM_REQUESTS, 2 * fault_client.HANG_SECONDS)
    load.going = False
    await running
    if len(load.outcomes) < CLIENTS * WARM_REQUESTS:
        raise ServerError(f"it answered {len(load.outcomes)} requests only")


async def hold(here: Site) -> asyncio.Task[Outcome]:
    """A slow request that is being computed: what is sent now waits."""
    before = len(here.batches())
    slow = asyncio.create_task(ask(here.door, SLOW))
    if not await until(
        lambda: any(mark(SLOW) in marks for _, marks in here.batches()[before:]), fault_client.HANG_SECONDS
    ):
        raise ServerError("it does not begin to compute")
    return slow


async def batch(here: Site) -> Found:
    """One bad request among good ones."""
    await warm(here)
    seeds = range(FIRST_SEED, FIRST_SEED + GOOD)
    alone = [(await ask(here.door, seed)).content for seed in seeds]
    failed, changed = [], 0
    for _ in range(ROUNDS):
        slow = await hold(here)
        outcomes = await asyncio.gather(*(ask(here.door, seed) for seed in (*seeds, POISON)))
        failed.append(sum(outcome.what != OK for outcome in outcomes))
        good = zip(outcomes[:GOOD], alone, strict=True)
        changed += sum(outcome.what == OK and outcome.content != content for outcome, content in good)
        await slow
    return {"sent": GOOD + 1, "failed": failed, "rows": here.mates(POISON), "changed": changed}


async def departed(here: Site) -> Found:
    """Clients that leave while others are being computed."""
    await warm(here)
    computed = []
    for number in range(ROUNDS):
        first = FIRST_SEED * (2 + number)
        seeds = range(first, first + LEAVERS)
        slow = await hold(here)
        await asyncio.gather(*(leave(here.door, seed, SLOW_SECONDS / 4) for seed in seeds))
        await slow
        await asyncio.sleep(CALM_SECONDS)
        computed.append(here.computed(seeds))
    return {"left": LEAVERS, "computed": computed}


async def killed(here: Site) -> Found:
    """The worker is gone."""
    return await outage(here, signal.SIGKILL)


async def hung(here: Site) -> Found:
    """The worker does nothing any more."""
    return await outage(here, signal.SIGSTOP)


async def outage(here: Site, fault: signal.Signals) -> Found:
    """A fault of the process that computes, under load, until answers come again and nobody waits any more."""
    await warm(here)
    load = Load(here.door, range(FIRST_SEED, FIRST_SEED + CLIENTS))
    running = asyncio.create_task(load.run())
    await asyncio.sleep(LOAD_SECONDS)
    worker, struck = here.worker(), time.monotonic()
    os.kill(worker, fault)
    await until(
        lambda: again(load.probes, struck) is not None or here.process.poll() is not None, fault_client.HANG_SECONDS
    )
    load.going = False
    await asyncio.wait({running}, timeout=max(0.0, struck + fault_client.HANG_SECONDS + 0.5 - time.monotonic()))
    running.cancel()  # harmless once it is done
    with contextlib.suppress(asyncio.CancelledError):
        await running
    return summary(load, struck) | {"exit_status": here.process.poll()}


def again(probes: Iterable[Outcome], struck: float) -> float | None:
    """Seconds from the fault until something sent after it was answered."""
    good = [outcome.ended for outcome in probes if outcome.what == OK and outcome.sent > struck]
    return min(good) - struck if good else None


def summary(load: Load, struck: float) -> Found:
    """What those saw who were waiting when it happened, and those who came between the fault and the recovery."""
    recovered = again(load.probes, struck)
    everything = [*load.outcomes, *load.probes]
    waiting = [outcome for outcome in everything if outcome.sent < struck <= outcome.ended]
    until = float("inf") if recovered is None else struck + recovered
    meanwhile = [outcome for outcome in everything if struck <= outcome.sent < until]
    return {
        "again_seconds": recovered,
        "in_flight": counts(waiting),
        "longest_seconds": max((outcome.ended - struck for outcome in waiting), default=0.0),
        "meanwhile": counts(meanwhile),
    }


def counts(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How many saw what."""
    return dict(collections.Counter(outcome.what for outcome in outcomes).most_common())


async def terminated(here: Site) -> Found:
    """The polite end, with one request being computed and others waiting."""
    await warm(here)
    slow = await hold(here)
    asked = [slow, *(asyncio.create_task(ask(here.door, FIRST_SEED + j)) for j in range(CLIENTS - 1))]
    await asyncio.sleep(SLOW_SECONDS / 4)
    told = time.monotonic()
    here.process.send_signal(signal.SIGTERM)
    await until(lambda: here.process.poll() is not None, fault_client.HANG_SECONDS)
    took, status = time.monotonic() - told, here.process.poll()
    await asyncio.sleep(CALM_SECONDS)
    left = [pid for pid in here.family() if pid != here.process.pid or status is None]
    serving = (await ask(here.door, FIRST_SEED, LIMIT)).what == OK
    outcomes = counts(await asyncio.gather(*asked))
    return {"seconds": took, "exit_status": status, "clients": outcomes, "left": len(left), "still_serving": serving}


FAULTS: Mapping[str, Callable[[Site], Awaitable[Found]]] = {
    "batch": batch,
    "departed": departed,
    "killed": killed,
    "hung": hung,
    "terminated": terminated,
}
LIMITS = {"hung": LIMIT}


def examine(name: str, chosen: Sequence[str], workers: int) -> Found:
    """All faults at one server, each at a fresh one; a fault that can't be tested says why."""
    found: Found = {"version": describe(name)}
    for fault in chosen:
        start = time.monotonic()
        try:
            with site(name, workers, LIMITS.get(fault)) as here:
                found[fault] = asyncio.run(FAULTS[fault](here))
        except (ServerError, TimeoutError) as error:
            found[fault] = {"error": f"{type(error).__name__}: {error}"}
        say(f"  {name} {fault} ({time.monotonic() - start:.0f} s): {found[fault]}")
    return found


def remember(path: Path, workers: int, servers: Mapping[str, Found]) -> Found:
    """Put what was found beside what the file has of other servers, faults and numbers of workers."""
    run: Found = {}
    with contextlib.suppress(OSError, ValueError):
        run = json.loads(path.read_text())
    kept: Found = run.setdefault("workers", {}).setdefault(str(workers), {})
    for name, found in servers.items():
        kept[name] = {**kept.get(name, {}), **machine.describe(), **found}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run, indent=1) + "\n")
    return run


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=tuple(FAULTS))
    parser.add_argument("--workers", type=int, default=1, help="processes that compute, at each server")
    parser.add_argument("--out", type=Path, default=generators.ROOT / "benchmarks/results", help="folder of the JSON")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server that runs is ended too
    servers = {}
    for name in options.servers:
        servers[name] = examine(name, options.faults, options.workers)
        run = remember(options.out / "faults.json", options.workers, servers)
    print(fault_report.table(run["workers"][str(options.workers)]))


if __name__ == "__main__":
    main()
