"""Three times as much as the server can do: what is served in time, who is refused and how, and who comes back.

One process, one thread; its own CPU time is told, because it is taken from the machine that serves.
"""

import asyncio
import contextlib
import gc
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from tests.chaos import asks
from tests.chaos.asks import Ask
from tests.chaos.clients import Clients, Outcome
from tests.serving import Server

MILLISECONDS = 5  # of compute, a picture
DEADLINE = 1.0
LOAD = 3.0
CLIENTS = 48  # of the closed loop that finds the capacity: enough to have a batch waiting all the time
SETTINGS = {"threads": 1, "max_batch": 8, "request_timeout": DEADLINE, "max_connections": 8192}


@dataclass
class Report:
    """What came of it.

    Attributes:
        capacity: pictures a second in a closed loop.
        closed_cpu: cores that this process took meanwhile.
        offered: requests a second.
        seconds: for which they were.
        cpu: cores that this process took while they were.
        first: what became of the first attempts; their seconds count from the moment when they were due.
        back: what became of those who came back when they had been told to.
    """

    capacity: float
    closed_cpu: float
    offered: float
    seconds: float
    cpu: float = 0.0
    first: list[Outcome] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    served: int = 0
    back: list[Outcome] = field(default_factory=list)

    def of(self, kind: str, status: int = 0) -> list[Outcome]:
        return [o for o in self.first if o.kind == kind and status in (0, o.status)]

    @property
    def goodput(self) -> float:
        """Served in time, of the capacity; those who came back took their part of it too."""
        return self.served / self.seconds / self.capacity

    @property
    def goodput_of_what_is_left(self) -> float:
        """The same, if the machine had as much CPU time for the server as it had in the closed loop."""
        cores = os.cpu_count() or 1
        return self.goodput * (cores - self.closed_cpu) / (cores - self.cpu)

    @property
    def kept(self) -> float:
        """Share of those who came back that were admitted."""
        return sum(o.kind == "answered" for o in self.back) / max(1, len(self.back))

    def lines(self) -> Iterator[str]:
        """For people."""
        served, refused = self.of("answered"), self.of("refused", 429)
        yield f"capacity, closed loop          {self.capacity:8.1f} /s   load generator {self.closed_cpu:.2f} cores"
        yield f"offered                        {self.offered:8.1f} /s   load generator {self.cpu:.2f} cores"
        yield f"goodput                        {self.goodput:8.1%} of capacity (bound 90 %)"
        yield f"goodput, generator deducted    {self.goodput_of_what_is_left:8.1%}"
        late = f"(deadline {DEADLINE:g} s)"
        yield f"served: p50, p99               {_ms(served, 0.5):8.0f} ms {_ms(served, 0.99):6.0f} ms {late}"
        yield f"refused: p50, p99              {_ms(refused, 0.5):8.0f} ms {_ms(refused, 0.99):6.0f} ms (bound 50 ms)"
        sent = [1000 * percentile(self.sent, share) for share in (0.5, 0.99)]
        yield f"the same, from sending         {sent[0]:8.0f} ms {sent[1]:6.0f} ms"
        yield f"came back as told: admitted    {self.kept:8.1%} of {len(self.back)} (bound 90 %)"
        yield f"first attempts                 {dict(Counter(map(str, self.first)))}"
        yield f"second attempts                {dict(Counter(map(str, self.back)))}"


def percentile(values: Sequence[float], share: float) -> float:
    """The value that so large a share does not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _ms(outcomes: Sequence[Outcome], share: float) -> float:
    return 1000 * percentile([o.seconds for o in outcomes], share)


async def capacity(some: Clients, seconds: float) -> tuple[float, float]:
    """Pictures a second in a closed loop, and the cores that asking took."""
    end, count = time.perf_counter() + seconds, 0

    async def client(first: int) -> None:
        nonlocal count
        seed = first
        while time.perf_counter() < end:
            outcome = await some.ask(asks.picture(seed, model="costly").within(60))
            assert str(outcome) == "answered 200", outcome
            count, seed = count + 1, seed + CLIENTS

    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client(first) for first in range(CLIENTS)))
    elapsed = time.perf_counter() - start
    return count / elapsed, (time.process_time() - cpu) / elapsed


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection meanwhile: thousands of waiting tasks make each stop this process for 0.2 s."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def measure(server: Server, some: Clients, *, seconds: float, back: float, seed: int = 1) -> Report:
    """Find the capacity, then offer three times as much at random moments; `back` of the refused come again."""
    await capacity(some, min(2.0, seconds))  # whatever the server learns by serving, it has learned
    most, closed_cpu = await capacity(some, min(5.0, seconds))
    report = Report(most, closed_cpu, LOAD * most, seconds)
    draw = random.Random(seed)

    def count(outcome: Outcome) -> Outcome:
        in_time = outcome.kind == "answered" and outcome.seconds <= DEADLINE
        report.served += in_time and time.perf_counter() < start + seconds
        return outcome

    async def one(ask: Ask, due: float, again: bool) -> None:
        outcome = await some.ask(ask)
        report.first.append(count(replace(outcome, seconds=time.perf_counter() - due)))
        if outcome.status != 429:
            return
        report.sent.append(outcome.seconds)
        if again:
            await asyncio.sleep(outcome.retry_after)
            report.back.append(count(await some.ask(ask)))

    with uncollected():
        start, cpu, moment = time.perf_counter(), time.process_time(), 0.0
        async with asyncio.TaskGroup() as group:
            while (moment := moment + draw.expovariate(report.offered)) < seconds:
                await asyncio.sleep(max(0.0, start + moment - time.perf_counter()))
                ask = asks.picture(draw.randrange(1 << 50), model="costly").within(DEADLINE)  # no two are alike
                group.create_task(one(ask, start + moment, draw.random() < back))
            elapsed = time.perf_counter() - start
            report.cpu = (time.process_time() - cpu) / elapsed
    return report
