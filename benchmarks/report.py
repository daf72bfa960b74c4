"""From the figures of a run to its table and its verdicts. Plain data in, text out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

OURS, PLAIN = "genserve", "fastapi"
CLIENTS = "32"  # keys of JSON objects are strings
LARGE = "dcgan-64"

Rounds = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class Verdict:
    """One gate: what was asked for, what was found."""

    what: str
    found: str
    passed: bool

    def __str__(self) -> str:
        return f"  {'pass' if self.passed else 'FAIL'}  {self.what}: {self.found}"


def middle(rounds: Rounds, name: str) -> float:
    """The median over the rounds; infinite when a latency is missing, as nothing was answered."""
    values = [value for value in rounds[name] if value is not None]
    return median(values) if values else float("inf")


def throughput(server: Mapping[str, Any], clients: str) -> float:
    return middle(server["closed"][clients], "throughput")


def best_peer(servers: Mapping[str, Any]) -> str:
    """The peer that answers most at 32 clients."""
    return max((name for name in servers if name != OURS), key=lambda name: throughput(servers[name], CLIENTS))


def table(name: str, run: Mapping[str, Any]) -> str:
    """One generator: a line a server, the limit, and what each column is as a multiple of the best peer."""
    servers, counts = run["servers"], list(run["servers"][OURS]["closed"])
    columns = "".join(f"{count:>9}" for count in counts)
    header = f"{'':<12}{columns}{'p99 at 32':>13}{'failed':>9}  how it was run"
    packed = ", peers with our packed network" if run.get("packed_peers") else ""
    lines = [f"{name}, {run['dtype']}{packed}: requests/s by clients", header]
    lines += [_line(server, servers[server], counts) for server in servers]
    lines.append(_ratio(servers, counts))
    return "\n".join([*lines, *_limit(run)])


def _line(name: str, server: Mapping[str, Any], counts: Sequence[str]) -> str:
    rates = "".join(f"{throughput(server, count):>9,.0f}" for count in counts)
    latency = f"{middle(server['closed'][CLIENTS], 'p99') * 1000:>10.1f} ms" if CLIENTS in counts else f"{'':>13}"
    return f"{name:<12}{rates}{latency}{_failed(server):>9.1%}  {server['how']}"


def _failed(server: Mapping[str, Any]) -> float:
    """The share of requests, over all loads in closed loop, that were not answered."""
    loads = server["closed"].values()
    failed = sum(sum(load["failed"]) + sum(load["refused"]) for load in loads)
    return failed / max(1, failed + sum(sum(load["answered"]) for load in loads))


def _ratio(servers: Mapping[str, Any], counts: Sequence[str]) -> str:
    peers = [name for name in servers if name != OURS]
    if not peers:
        return ""
    ratios = (
        throughput(servers[OURS], count) / max(throughput(servers[name], count) for name in peers) for count in counts
    )
    return f"{'/ best peer':<12}" + "".join(f"{ratio:>9.2f}" for ratio in ratios)


def _limit(run: Mapping[str, Any]) -> Iterator[str]:
    limit = run.get("limit")
    if limit is None:
        return
    parts = ", ".join(f"{name} {limit[name] * 1e6:.0f} us" for name in ("request", "model", "png"))
    client = f"; with the client's {limit['client'] * 1e6:.0f} us: {limit['beside_client']:,.0f}"
    yield f"limit {limit['throughput']:,.0f} requests/s: {limit['cores']} cores / ({parts}){client}"


def verdicts(name: str, run: Mapping[str, Any]) -> list[Verdict]:
    """The gates of this generator, as far as the run has what they need."""
    servers = run["servers"]
    ours, found = servers[OURS], []
    if len(servers) > 1 and CLIENTS in ours["closed"]:
        found += _against_best_peer(servers, 1.3 if name == LARGE else 1.5, compare_latency=name != LARGE)
    if name == LARGE:
        return found
    if PLAIN in servers and "1" in ours["closed"]:
        mine, plain = throughput(ours, "1"), throughput(servers[PLAIN], "1")
        found.append(Verdict("1 client, no slower than plain FastAPI", f"{mine:,.0f} and {plain:,.0f}", mine >= plain))
    if run.get("limit") and CLIENTS in ours["closed"]:
        share = throughput(ours, CLIENTS) / run["limit"]["throughput"]
        found.append(Verdict("32 clients, at least 60 % of the limit", f"{share:.0%}", share >= 0.6))
    return found


def _against_best_peer(servers: Mapping[str, Any], factor: float, *, compare_latency: bool) -> list[Verdict]:
    name = best_peer(servers)
    ours, peer = servers[OURS]["closed"][CLIENTS], servers[name]["closed"][CLIENTS]
    ratio = middle(ours, "throughput") / middle(peer, "throughput")
    found = [Verdict(f"32 clients, at least {factor} times the best peer", f"{ratio:.2f} ({name})", ratio >= factor)]
    if compare_latency:
        mine, its = middle(ours, "p99") * 1000, middle(peer, "p99") * 1000
        found.append(Verdict("32 clients, p99 no worse than its", f"{mine:.1f} and {its:.1f} ms", mine <= its))
    return found


def full(run: Mapping[str, Any]) -> str:
    """Tables and verdicts of all generators."""
    machine = run["machine"]
    lines = [f"{run['date']}, commit {run['describe']}, {machine['cores']} cores of {machine['cpu']}"]
    lines.append(f"torch {machine['torch']}, Python {machine['python']}, wrk {machine['wrk']}")
    for name, generator in run["generators"].items():
        lines += ["", table(name, generator), *map(str, verdicts(name, generator))]
    return "\n".join(lines)
