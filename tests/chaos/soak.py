"""Everything at once and at random against one server, for as long as one likes: `python -m tests.chaos.soak`.

Ordinary clients, bad ones, poisoned requests and blows to the worker; at the end a table, and status 1 if a promise was
broken: another's result, a request without an end, an error that is not documented for what happened, memory, files or
threads that are not given back. `python -m tests.chaos.soak overload` measures three times the load instead.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

from tests import fake_sequences, fakes
from tests.chaos import asks, overload, poison
from tests.chaos.asks import LARGE, Ask
from tests.chaos.clients import Clients, Outcome, clients, exchange, leave
from tests.chaos.proxy import Fault, proxied
from tests.chaos.server import MEBIBYTE, Footprint, footprint, ready, restarts, settled, started, write_models
from tests.serving import PATIENCE, Server

SERVED = {"answered 200"}
# What may become of anybody's request while the worker is away or the queue is full.
BUSY = {"refused 503 not_ready", "refused 429 overloaded"}
STREAMED = {"broken 200 worker_died"}
FAILED = {"refused 500 compute_failed", "broken 200 compute_failed"}
DEADLY = {"refused 500 kills_worker", "broken 200 kills_worker", "broken 200 worker_died"}
LATE = {"refused 504 deadline_exceeded"}
NO_PICTURE = {"refused 400 invalid_picture", "refused 413 picture_too_large", "refused 415 unsupported_media_type"}
HEADER = 33  # bytes of a PNG
BLOWS = ("kill -9", "kill -STOP", "exit", "segfault", "hang", "freeze", "exit in a text", "exit in an upload")
BLOWS_EVERY = 40.0  # seconds
FLOODS_EVERY = 25.0
GROWN = 96 * MEBIBYTE  # at most, by either process, from the first settled minute to the end
MORE_THREADS = 8
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Soak:
    """One server, all kinds of clients, and what became of their requests."""

    def __init__(self, server: Server, minutes: float, seed: int) -> None:
        self._server, self._draw = server, random.Random(seed)
        self._end = time.monotonic() + 60 * minutes
        self.outcomes: dict[str, Counter[str]] = defaultdict(Counter)
        self.broken: list[str] = []
        self.recovered: dict[str, list[float]] = defaultdict(list)
        self.before = self.after = settled(server)

    async def run(self) -> None:
        """All kinds of clients at once until the time is over; then see what is left."""
        kinds: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (6, self._pictures),
            (3, self._uploads),
            (3, self._texts),
            (3, self._streams),
            (2, self._speech),
            (2, self._captions),
            (1, self._pressed),
            (1, self._bad_bodies),
            (1, self._bad_files),
            (3, self._leavers),
            (2, self._slow_readers),
            (1, self._slow_senders),
            (1, self._failing),
            (1, self._flood),
            (1, self._blows),
        ]
        async with asyncio.TaskGroup() as group:
            for count, kind in kinds:
                for _ in range(count):
                    group.create_task(self._over_and_over(kind))
            group.create_task(self._report())
        self.after = await self._settle()
        self._check()

    async def _over_and_over(self, kind: Callable[[], Awaitable[None]]) -> None:
        while time.monotonic() < self._end:
            await kind()
            await asyncio.sleep(self._draw.uniform(0.0, 0.05))

    async def _one(self, kind: str, some: Clients, ask: Ask, allowed: set[str], patience: float = PATIENCE) -> Outcome:
        outcome = await some.ask(ask, patience)
        self._count(kind, str(outcome), allowed)
        if outcome.status in (429, 503):
            if "retry-after" not in outcome.headers:
                self.broken.append(f"{kind}: {outcome} without Retry-After")
            await asyncio.sleep(min(1.0, float(outcome.headers.get("retry-after", 1))))
        return outcome

    def _count(self, kind: str, came: str, allowed: set[str]) -> None:
        self.outcomes[kind][came] += 1
        if came not in allowed:
            self.broken.append(f"{time.strftime('%H:%M:%S')} {kind}: {came}")

    # Ordinary clients

    async def _pictures(self) -> None:
        draw = self._draw
        model, most = ("poisoned", 16) if draw.random() < 0.97 else ("wide", 4)
        async with clients(self._server.url, keep=draw.random() < 0.5) as some:
            for _ in range(draw.randint(1, 30)):
                ask = asks.picture(draw.randrange(1 << 40), draw.randint(1, most), model)
                await self._one("pictures", some, ask, SERVED | BUSY)

    async def _uploads(self) -> None:
        draw = self._draw
        async with clients(self._server.url, keep=draw.random() < 0.5) as some:
            for _ in range(draw.randint(1, 20)):
                ask = asks.encode(draw.randrange(1 << 40), scale=draw.choice([1, 1, 1, 7, LARGE]))
                await self._one("uploads", some, ask, SERVED | BUSY)

    async def _texts(self) -> None:
        draw = self._draw
        async with clients(self._server.url) as some:
            ask = asks.text(draw.choice(LETTERS), draw.randint(1, 200), n=draw.randint(1, 3))
            await self._one("texts", some, ask, SERVED | BUSY)

    async def _streams(self) -> None:
        draw = self._draw
        mark = "\x01Z" if draw.random() < 0.2 else ""
        async with clients(self._server.url) as some:
            ask = asks.text(draw.choice(LETTERS), draw.randint(1, 200), mark=mark, stream=True)
            await self._one("streams", some, ask, SERVED | BUSY | STREAMED)

    async def _speech(self) -> None:
        """A stream of sound has no words for an error: it is broken off."""
        draw, stream = self._draw, self._draw.random() < 0.5
        async with clients(self._server.url) as some:
            ask = asks.speech(draw.choice(LETTERS[:26]) * draw.randint(1, 9), draw.uniform(0.1, 3.9), stream=stream)
            await self._one("speech", some, ask, SERVED | BUSY | ({"cut 200"} if stream else set()))

    async def _captions(self) -> None:
        draw = self._draw
        async with clients(self._server.url) as some:
            ask = asks.caption(draw.choice(["red dog", "a blue cat", "dog on a cat"]), draw.randint(1, 8))
            await self._one("captions", some, ask, SERVED | BUSY)

    async def _pressed(self) -> None:
        """In a hurry: deadlines from hopeless to easy."""
        ask = asks.picture(self._draw.randrange(1 << 40), self._draw.randint(1, 8))
        async with clients(self._server.url) as some:
            ask = ask.within(self._draw.choice([0.001, 0.01, 0.1, 1]))
            await self._one("in a hurry", some, ask, SERVED | BUSY | LATE)
        await asyncio.sleep(0.1)

    # Clients that behave badly

    async def _bad_bodies(self) -> None:
        draw, raw = self._draw, bytearray(asks.picture(1).raw())
        for _ in range(draw.randint(1, 6)):
            raw[draw.randrange(len(raw))] = draw.randrange(256)
        answer, _ = await exchange(self._server.url, bytes(raw), patience=6.0)
        status = answer[9:12].decode("latin-1") if answer else "none"
        self._count("bad bodies", f"status {status}", {f"status {s}" for s in ("none", 200, *range(400, 432), 503)})

    async def _bad_files(self) -> None:
        """With other bytes in their header, or cut off somewhere."""
        draw = self._draw
        file = bytearray(asks.encode(draw.randrange(1 << 40), scale=draw.choice([1, 40])).sent)
        for _ in range(draw.randint(0, 3)):
            file[draw.randrange(HEADER)] = draw.randrange(256)
        ask = replace(asks.upload(bytes(file[: draw.randint(0, len(file))])), own=lambda _: True)  # some are whole
        async with clients(self._server.url) as some:
            await self._one("bad files", some, ask, SERVED | NO_PICTURE | BUSY)
        await asyncio.sleep(0.05)

    async def _leavers(self) -> None:
        draw, reset = self._draw, self._draw.random() < 0.5
        stages = [
            (asks.picture(1).raw()[:50], 0, 0.0),
            (asks.picture(1).raw()[:-3], 0, 0.0),
            (asks.encode(1, scale=LARGE).raw()[: draw.randint(1000, 600_000)], 0, 0.0),
            (asks.encode(1, scale=draw.choice([1, LARGE])).raw(), 0, draw.uniform(0, 0.05)),
            (asks.picture(1, 64).raw(), 0, draw.uniform(0, 0.05)),
            (asks.picture(1, 8, "wide").raw(), 1000, 0.0),
            (asks.text("a", 400, mark="\x01Z", stream=True).raw(), draw.randint(100, 1000), 0.0),
            (asks.text("a", 400).raw(), 0, draw.uniform(0, 0.3)),
        ]
        data, read, linger = draw.choice(stages)
        came = "left"
        with contextlib.suppress(OSError):
            try:
                await leave(self._server.url, data, read=read, linger=linger, reset=reset)
            except TimeoutError:
                came = "timeout"
        self._count("leavers", came, {"left"})
        await asyncio.sleep(0.1)

    async def _slow_readers(self) -> None:
        draw = self._draw
        fault = draw.choice(
            [
                Fault(rate=300_000),
                Fault(after=draw.randint(0, 100_000), then="stall"),
                Fault(after=draw.randint(0, 100_000), then="close"),
                Fault(after=draw.randint(0, 100_000), then="reset"),
            ]
        )
        ask = draw.choice([asks.picture(7, 6, "wide"), asks.text("b", 300, stream=True, n=8)])
        broken = {"cut 200", "closed 0", "timeout 0", "timeout 200"} if fault.then != "pass" else set()
        allowed = SERVED | BUSY | STREAMED | broken
        async with proxied(self._server.url, down=fault) as url, clients(url) as some:
            await self._one("slow readers", some, ask, allowed, 15.0 if fault.then == "stall" else PATIENCE)

    async def _slow_senders(self) -> None:
        raw = self._draw.choice([asks.picture(3), asks.encode(3, scale=20)]).raw()
        up = self._draw.choice([Fault(rate=30), Fault(after=self._draw.randrange(1, len(raw)), then="stall")])
        async with proxied(self._server.url, up=up) as url:
            answer, closed = await exchange(url, raw)
        came = f"status {answer[9:12].decode()}" if answer else "closed" if closed else "timeout"
        self._count("slow senders", came, {"status 408", "closed"})

    async def _failing(self) -> None:
        draw = self._draw
        bad = [asks.shown(kind, draw.random()) for kind in (poison.RAISE, poison.NAN, poison.MEMORY)]
        bad += [asks.text("a", 40, mark=m) for m in (fake_sequences.RAISE_PREFILL, fake_sequences.RAISE_STEP)]
        bad.append(asks.text("a", 40, mark=fake_sequences.NAN, stream=True))
        bad += [asks.encode(1, first=fakes.POISON[what]) for what in (fakes.RAISE, fakes.NAN)]
        async with clients(self._server.url) as some:
            await self._one("failing", some, draw.choice(bad), FAILED | BUSY | STREAMED)
        await asyncio.sleep(draw.uniform(0.2, 1.0))

    async def _flood(self) -> None:
        """Hundreds of requests of one client at once; a small one beside it goes on being served."""
        await asyncio.sleep(self._draw.uniform(0.5, 1.5) * FLOODS_EVERY)
        async with clients(self._server.url, source="127.0.0.2") as large, clients(self._server.url) as small:
            requests = [asks.picture(self._draw.randrange(1 << 40), 8) for _ in range(150)]
            flood = asyncio.gather(*(self._one("floods", large, ask, SERVED | BUSY) for ask in requests))
            while not flood.done():
                await self._one("beside floods", small, asks.picture(self._draw.randrange(1 << 40)), SERVED | BUSY)
            await flood

    # Blows to the worker

    async def _blows(self) -> None:
        await asyncio.sleep(self._draw.uniform(0.5, 1.5) * BLOWS_EVERY)
        if time.monotonic() > self._end - 20:
            return
        blow = self._draw.choice(BLOWS)
        start, count = time.monotonic(), await asyncio.to_thread(restarts, self._server)
        if blow.startswith("kill"):
            sig = signal.SIGKILL if blow == "kill -9" else signal.SIGSTOP
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._server.workers[0], sig)
        else:
            await self._deadly(blow)
        await self._until(lambda: restarts(self._server) > count)
        away = time.monotonic() - start
        await self._until(lambda: ready(self._server))
        self.recovered[blow].append(time.monotonic() - start)
        self.outcomes["blows"][blow] += 1
        said = "noticed" if blow.startswith("kill") else "culprit refused"
        print(f"  {blow}: {said} after {away:.1f} s, ready after {self.recovered[blow][-1]:.1f} s", flush=True)

    async def _deadly(self, blow: str) -> None:
        kinds = {"exit": poison.EXIT, "segfault": poison.SEGFAULT, "hang": poison.HANG, "freeze": poison.FREEZE}
        draw = self._draw
        if blow == "exit in a text":
            ask = asks.text(draw.choice(LETTERS), draw.randint(20, 100), mark=fake_sequences.EXIT)
        elif blow == "exit in an upload":
            ask = asks.encode(draw.randrange(1 << 40), first=fakes.POISON[fakes.EXIT])
        else:
            ask = asks.shown(kinds[blow], draw.random())
        async with clients(self._server.url) as some:
            while (outcome := await self._one("deadly", some, ask, DEADLY | BUSY)).status in (429, 503):
                pass
            if outcome.code == "kills_worker":
                again = {"refused 500 kills_worker"} | BUSY
                while (await self._one("deadly again", some, ask, again)).status in (429, 503):
                    pass

    async def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not await asyncio.to_thread(condition):
            if time.monotonic() > deadline:
                self.broken.append(f"{time.strftime('%H:%M:%S')} blows: the server does not come back, or never went")
                return
            await asyncio.sleep(0.02)

    # Looking on

    async def _report(self) -> None:
        while time.monotonic() < self._end:
            await asyncio.sleep(min(60.0, max(0.0, self._end - time.monotonic()) + 0.1))
            total = sum(sum(counter.values()) for counter in self.outcomes.values())
            with contextlib.suppress(OSError):  # a worker has just ended
                self.after = await asyncio.to_thread(footprint, self._server)
            sizes = " + ".join(f"{size / MEBIBYTE:.0f}" for size in self.after.memory)
            print(f"{time.strftime('%H:%M:%S')} {total} requests, {sizes} MiB, {len(self.broken)} broken", flush=True)

    async def _settle(self) -> Footprint:
        await self._until(lambda: ready(self._server))
        deadline = time.monotonic() + 30
        while not (now := await asyncio.to_thread(settled, self._server)).fits(self.before):
            if time.monotonic() > deadline:
                break
        return now

    def _check(self) -> None:
        if not self.after.fits(self.before):
            self.broken.append(f"held before: {self.before}; after: {self.after}")
        grown = [b - a for a, b in zip(self.before.memory, self.after.memory, strict=False)]
        if max(grown) > GROWN:
            self.broken.append(f"memory has grown by {[g // MEBIBYTE for g in grown]} MiB")
        if sum(counter["answered 200"] for counter in self.outcomes.values()) == 0:
            self.broken.append("nothing was answered")

    def lines(self) -> Iterator[str]:
        """The table at the end."""
        for kind, counter in self.outcomes.items():
            yield f"{kind:<16}{sum(counter.values()):>8}   " + ", ".join(f"{k}: {n}" for k, n in counter.most_common())
        for blow, seconds in self.recovered.items():
            yield f"{blow:<16}{len(seconds):>8}   {_ready_after(seconds)}"
        every = [s for seconds in self.recovered.values() for s in seconds]
        if every:
            yield f"{'all blows':<16}{len(every):>8}   {_ready_after(every)}"
        wrong = sum(counter[k] for counter in self.outcomes.values() for k in counter if k.startswith("wrong"))
        yield f"wrong results   {wrong:>8}"
        for name, sizes in (("start", self.before), ("end", self.after)):
            held = " + ".join(f"{size / MEBIBYTE:.0f}" for size in sizes.memory)
            yield f"{name:<16}{held} MiB, {sizes.descriptors} descriptors, {sizes.threads} threads"


def _ready_after(seconds: list[float]) -> str:
    return f"ready after {sorted(seconds)[len(seconds) // 2]:.1f} s (p50), {max(seconds):.1f} s (most)"


async def soak(weights: Path, minutes: float, seed: int) -> bool:
    """Whether every promise was kept."""
    with started(write_models(weights), threads=2) as server:
        async with clients(server.url) as some:  # what grows with the first requests has grown
            await some.ask_all([asks.picture(s, 8) for s in range(50)] + [asks.text(c, 50) for c in "abcdefgh"])
            await some.ask_all(asks.encode(s, scale=LARGE) for s in range(8))
        soaking = Soak(server, minutes, seed)
        try:
            await soaking.run()
        finally:
            print("\n".join(soaking.lines()))
            if soaking.broken:
                print(f"{len(soaking.broken)} promises broken:", *soaking.broken[:50], sep="\n  ")
                await asyncio.to_thread(Path("soak-server.log").write_text, server.log)
        server.terminate()
        status = await asyncio.to_thread(server.wait_exit)
        print(f"exit status {status}")
        return not soaking.broken and status == 0


async def measure(weights: Path, seconds: float, seed: int) -> bool:
    """Overload, twice: a tenth of the refused come back, then all of them."""
    poison.write(weights, "costly", "poisoned", milliseconds=overload.MILLISECONDS)
    kept = True
    for back in (0.1, 1.0):
        with started(weights, **overload.SETTINGS) as server:
            async with clients(server.url, keep=True) as some:
                report = await overload.measure(server, some, seconds=seconds, back=back, seed=seed)
        print(f"{back:.0%} of the refused come back", *report.lines(), sep="\n  ")
        kept &= not any(o.kind in ("wrong", "cut", "timeout", "nonsense") for o in report.first + report.back)
    return kept


def main() -> None:
    """Entry point; the exit status is 0 when every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", nargs="?", choices=["soak", "overload"], default="soak")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=20.0, help="of overload")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder)
        run = (
            soak(weights, options.minutes, options.seed)
            if options.mode == "soak"
            else measure(weights, options.seconds, options.seed)
        )
        kept = asyncio.run(run)
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
