"""Results as a table for people and as plain values for programs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from app.bench.result import Result, TextResult
from app.bench.target import Target

BUSY = 0.9  # share of a core above which the client may be what limits the figure


@dataclass(frozen=True)
class Row:
    """One load of one model; `share` is that of the best closed loop's throughput which an open loop offers."""

    target: Target
    result: Result
    share: float | None = None

    @property
    def load(self) -> str:
        """What was done to the model."""
        if self.share is not None:
            return f"open, {self.share:g} x best: {self.result.offered:,.1f}/s"
        noun = "stream" if isinstance(self.result, TextResult) else "client"
        return f"{self.result.clients} {noun}{'s' * (self.result.clients > 1)}"

    @property
    def rate(self) -> str:
        """The figure that counts: requests a second, of texts tokens."""
        if isinstance(self.result, TextResult):
            return f"{self.result.tokens_per_second:,.1f} tokens/s"
        return f"{self.result.throughput:,.1f} req/s"


def table(rows: Sequence[Row]) -> str:
    """One line a load."""
    model = max(len("model"), *(len(row.target.model) for row in rows)) + 2
    load = max(len(row.load) for row in rows) + 2
    head = f"{'model':<{model}}{'load':<{load}}{'throughput':>17}{'p50':>12}{'p99':>12}"
    head += f"{'refused':>9}{'failed':>9}{'client CPU':>12}"
    lines = [head, "-" * len(head)]
    for row in rows:
        result = row.result
        lines.append(
            f"{row.target.model:<{model}}{row.load:<{load}}{row.rate:>17}{_ms(result.p50):>12}{_ms(result.p99):>12}"
            f"{result.refused:>9,}{result.failed:>9,}{result.cpu_share:>12.0%}"
        )
    return "\n".join(lines)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.1f} ms"


def notes(rows: Sequence[Row]) -> list[str]:
    """What the table has no room for."""
    found = [_streams(row, row.result) for row in rows if isinstance(row.result, TextResult)]
    for row in rows:
        result, what = row.result, f"{row.target.model}, {row.load}"
        if result.cpu_share > BUSY:
            found.append(f"{what}: the client took {result.cpu_share:.0%} of a core; the figure is a lower bound")
        if not result.answered:
            found.append(f"{what}: nothing was answered")
        elif result.client == "wrk" and result.refused + result.failed:
            found.append(f"{what}: latencies are those of all answers, refusals and errors too")
    return found


def _streams(row: Row, result: TextResult) -> str:
    rate = result.stream_tokens_per_second
    return (
        f"{row.target.model}, {row.load}: first text after {_ms(result.first_p50)} (p99 {_ms(result.first_p99)}), "
        f"then {_ms(result.between_p50)} a token (p99 {_ms(result.between_p99)}); "
        f"{'-' if rate is None else f'{rate:,.1f}'} tokens/s a stream"
    )


def document(rows: Sequence[Row], **about: Any) -> dict[str, Any]:
    """All that was found, for JSON: seconds, requests/s, shares."""
    return {
        **about,
        "results": [
            {
                "model": row.target.model,
                "digest": row.target.digest,
                "runtime": row.target.runtime,
                "share": row.share,
                **asdict(row.result),
                "throughput": row.result.throughput,
                "client_cpu_share": row.result.cpu_share,
            }
            for row in rows
        ],
    }
