"""From the figures of a comparison of text servers to its table and its verdicts. Plain data in, text out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.report import Verdict

OURS = "genserve"
LLAMA_BF16, LLAMA_Q4 = "llama.cpp BF16", "llama.cpp Q4_0"
BF16 = "bf16"
MIB = 1 << 20
MANY = "16"  # keys of JSON objects are strings
MUST = 0.9  # of the best peer of the same precision, at every number of clients
SAME_PRECISION = {"1": 1.0, "4": 1.15, "8": 1.0, "16": 1.1}  # aims: bf16 beside the best peer in bf16
BEST = {"1": 0.9, "4": 1.5, "8": 1.1, "16": 1.1}  # aims: our best precision beside the best peer in any
RAW_SHARE, MEMORY, FIRST_SECONDS = 0.85, 1.5, 3.0

Servers = Mapping[str, Any]


def middle(load: Mapping[str, Sequence[float | None]], name: str) -> float:
    """The median over the rounds; infinite when a wait is missing, as nothing was answered."""
    values = [value for value in load[name] if value is not None]
    return median(values) if values else float("inf")


def rate(server: Mapping[str, Any], clients: str) -> float:
    """Tokens/s at so many clients."""
    return middle(server["loads"][clients], "tokens_per_second")


def ours(servers: Servers) -> list[str]:
    return [name for name in servers if name.startswith(OURS)]


def peers(servers: Servers, precision: str | None = None) -> list[str]:
    """All others, or those of one precision."""
    return [name for name in servers if name not in ours(servers) and precision in (None, servers[name]["precision"])]


def best(servers: Servers, names: Iterable[str], clients: str) -> str | None:
    """Who of these makes most tokens/s; None of nobody."""
    return max(names, key=lambda name: rate(servers[name], clients), default=None)


def table(run: Mapping[str, Any]) -> str:
    """A line a server, then our ratios."""
    servers, counts = run["servers"], run["clients"]
    rates = "".join(f"{count:>8}" for count in counts)
    lines = [f"{'tokens/s by clients':<20}{rates}   first text p50, p99   a token p50, p99    start     RSS  failed"]
    lines += [_line(name, servers[name], counts) for name in servers]
    lines += _ratios(servers, counts)
    return "\n".join(lines)


def _line(name: str, server: Mapping[str, Any], counts: Sequence[str]) -> str:
    last = server["loads"][counts[-1]]
    rates = "".join(f"{rate(server, count):>8,.0f}" for count in counts)
    first, first_most, token, token_most = (
        middle(last, field) * 1000 for field in ("first_p50", "first_p99", "between_p50", "between_p99")
    )
    failed = sum(sum(load["failed"]) for load in server["loads"].values())
    start, memory = median(server["first_seconds"]), median(server["resident"]) / MIB
    waits = f"{first:>9.0f}, {first_most:>5.0f} ms{token:>11.1f}, {token_most:>5.1f} ms"
    return f"{name:<20}{rates}   {waits}{start:>7.1f} s{memory:>5.0f} MiB{failed:>5}"


def _ratios(servers: Servers, counts: Sequence[str]) -> Iterator[str]:
    for name in ours(servers):
        same = servers[name]["precision"]
        for what, theirs in (("best peer", peers(servers)), (f"best peer in {same}", peers(servers, same))):
            if theirs:
                found = "".join(f"{_ratio(servers, [name], theirs, count):>8.2f}" for count in counts)
                yield f"{name} / {what}:{found}"


def _ratio(servers: Servers, mine: Iterable[str], theirs: Iterable[str], clients: str) -> float:
    my, their = best(servers, mine, clients), best(servers, theirs, clients)
    return rate(servers[my], clients) / rate(servers[their], clients) if my and their else float("nan")


def verdicts(run: Mapping[str, Any]) -> list[Verdict]:
    """The gates and the aims, as far as the run has what they need."""
    servers, found = run["servers"], list[Verdict]()
    for name in ours(servers):
        precision = servers[name]["precision"]
        theirs, asked = peers(servers, precision), dict.fromkeys(run["clients"], MUST)
        found += _against(f"gate: the best peer in {precision}", servers, [name], theirs, asked)
    plain = [name for name in ours(servers) if servers[name]["precision"] == BF16]
    found += _against("aim: bf16, the best peer in bf16", servers, plain, peers(servers, BF16), SAME_PRECISION)
    found += _against("aim: our best, the best peer", servers, ours(servers), peers(servers), BEST)
    return [*found, *_costs(servers), *_raw(run)]


def _against(
    what: str, servers: Servers, mine: Sequence[str], theirs: Sequence[str], asked: Mapping[str, float]
) -> Iterator[Verdict]:
    for clients, least in asked.items():
        if mine and theirs and all(clients in servers[name]["loads"] for name in (*mine, *theirs)):
            ratio = _ratio(servers, mine, theirs, clients)
            name = f"{best(servers, mine, clients)} / {best(servers, theirs, clients)}"
            yield Verdict(f"{what}, {clients} clients, at least {least}", f"{ratio:.2f} ({name})", ratio >= least)


def _costs(servers: Servers) -> Iterator[Verdict]:
    """First text, memory and start."""
    mine = best(servers, ours(servers), MANY) if _has(servers, MANY) else None
    if mine and LLAMA_Q4 in servers:
        my, its = (middle(servers[name]["loads"][MANY], "first_p50") * 1000 for name in (mine, LLAMA_Q4))
        yield Verdict(
            f"16 clients, first text of {mine}, p50, no later than Q4_0's", f"{my:.0f}, {its:.0f} ms", my <= its
        )
    plain = f"{OURS} {BF16}"
    if plain in servers and LLAMA_BF16 in servers:
        factor = median(servers[plain]["resident"]) / median(servers[LLAMA_BF16]["resident"])
        yield Verdict(f"bf16, RSS at most {MEMORY} times llama.cpp's", f"{factor:.2f}", factor <= MEMORY)
    for name in ours(servers):
        seconds = median(servers[name]["first_seconds"])
        found = f"{seconds:.1f} s"
        yield Verdict(f"{name}, first completion within {FIRST_SECONDS:.0f} s", found, seconds <= FIRST_SECONDS)


def _has(servers: Servers, clients: str) -> bool:
    return all(clients in server["loads"] for server in servers.values())


def _raw(run: Mapping[str, Any]) -> Iterator[Verdict]:
    """The service beside its own network without HTTP."""
    for name, raw in run.get("raw", {}).items():
        if MANY in raw and MANY in run["servers"][name]["loads"]:
            share = rate(run["servers"][name], MANY) / median(raw[MANY])
            found = f"{share:.0%} of {median(raw[MANY]):,.0f}"
            yield Verdict(f"{name}, 16 clients, of the raw loop at least {RAW_SHARE:.0%}", found, share >= RAW_SHARE)


def full(run: Mapping[str, Any]) -> str:
    """Where and when, the table, the verdicts."""
    machine = run["machine"]
    lines = [f"{run['date']}, commit {run['describe']}, {machine['cores']} cores of {machine['cpu']}"]
    lines.append(f"torch {machine['torch']}, Python {machine['python']}; {run['prompt']} -> {run['tokens']} tokens")
    return "\n".join([*lines, "", table(run), "", *map(str, verdicts(run))])
