"""What a measurement found: plain values, seconds throughout."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Result:
    """One load on one target.

    Attributes:
        mode: "closed" (each client sends its next request when the last is answered) or "open" (requests leave at times
            drawn beforehand, answered or not).
        client: the program that sent them, "wrk" or "aiohttp".
        clients: requests in flight at once; of an open loop the most that were.
        offered: of an open loop, requests/s asked for.
        seconds: how long requests were sent. A closed loop of pictures is cut off then, and what is in flight is not
            counted; of texts and of an open loop the last answers are waited for.
        tail_seconds: how long that waiting took.
        answered: 2xx. refused: 429. failed: everything else, connection errors and timeouts included.
        in_time: of those answered, how many were within `seconds`.
        p50, p90, p99, max: latencies, None when there is none. aiohttp: of what was answered, in an open loop from the
            intended moment of sending. wrk: of all statuses; it adds what requests would have waited that a slow answer
            kept from being sent.
        client_cpu_seconds: CPU time of the sending process, its tail included.
    """

    mode: str
    client: str
    clients: int
    offered: float | None = None
    seconds: float
    tail_seconds: float = 0.0
    answered: int
    in_time: int
    refused: int
    failed: int
    p50: float | None
    p90: float | None
    p99: float | None
    max: float | None
    client_cpu_seconds: float

    @property
    def throughput(self) -> float:
        """Requests answered per second, while requests were sent."""
        return self.in_time / self.seconds

    @property
    def cpu_share(self) -> float:
        """The client's CPU time as a share of one core."""
        return self.client_cpu_seconds / (self.seconds + self.tail_seconds)


@dataclass(frozen=True, kw_only=True)
class TextResult(Result):
    """One load of streamed texts.

    Attributes:
        tokens_per_second: over all streams, within `seconds`.
        stream_tokens_per_second: the median over the streams, from sending a request to its last token.
        first_p50, first_p99: seconds from sending to the first piece of text.
        between_p50, between_p99: over the streams, seconds from the first piece to the last divided by one less than
            its tokens; pieces may hold several tokens, so that single gaps are longer.
    """

    tokens_per_second: float
    stream_tokens_per_second: float | None
    first_p50: float | None
    first_p99: float | None
    between_p50: float | None
    between_p99: float | None


@dataclass
class Tally:
    """Counts answers while a load runs.

    Attributes:
        end: until when an answer is in time, by the clock of `time.perf_counter`.
        latencies: of answered requests, in seconds.
    """

    end: float = math.inf
    latencies: list[float] = field(default_factory=list)
    in_time: int = 0
    refused: int = 0
    failed: int = 0

    def count(self, status: int, since: float) -> None:
        """Count one request that ends now; status 0 stands for no answer at all."""
        now = time.perf_counter()
        if 200 <= status < 300:
            self.latencies.append(now - since)
            self.in_time += now <= self.end
        elif status == 429:
            self.refused += 1
        else:
            self.failed += 1


def percentiles(values: Sequence[float], shares: Sequence[float]) -> list[float | None]:
    """The smallest values that so large a share (0 to 1) of all does not exceed; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return [None] * len(shares)
    return [ordered[max(0, math.ceil(share * len(ordered)) - 1)] for share in shares]
