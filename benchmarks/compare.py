"""The comparison: the service, the peers and the limit, in one run on one machine.

    python -m benchmarks.compare [--no-sweep] [--generators ...] [--rounds 3] [--seconds 4]

Each peer's best configuration is searched first (`sweep.py`) and kept in results/sweep.json. Then come rounds in which
every server is started in turn and loaded in closed loop, then open loops at fractions of each server's own best, then
the parts of the limit. The service runs as it is shipped. Prints a table, writes results/compare.json.
"""

import argparse
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import generators, limit, machine, report, sweep
from benchmarks.subject import Subject
from benchmarks.sweep import SPACES, Choice

RESULTS = generators.ROOT / "benchmarks/results"
CLIENTS = (1, 8, 32, 64)
FRACTIONS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)  # of a server's own best in closed loop
AS_SHIPPED = "as shipped"

Choices = dict[str, Choice | None]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def find_best(subject: Subject, peers: Sequence[str], seconds: float, path: Path) -> dict[str, Choice]:
    """Search each peer's best configuration; the whole search is kept in a file, by generator, dtype and peer."""
    best = {}
    for name in peers:
        measured: dict[str, Any] = {}

        def measure(choice: Choice, name: str = name, measured: dict[str, Any] = measured) -> float:
            found = subject.score(name, choice, seconds)
            measured[str(choice)] = found
            said = found.get("error") or f"{found['throughput']:,.0f}/s, {found['failed']} failed"
            say(f"  {subject.name} {subject.dtype} {name}: {choice}: {said}")
            return float(found["throughput"])

        best[name], scores = sweep.search(SPACES[name], measure)
        if not scores[best[name]]:
            sys.exit(f"{name} answers nothing in any configuration: see build/bench/logs/{name}.log")
        _remember(path, subject, name, {"best": vars(best[name]), "measured": measured})
    return best


def _key(subject: Subject, name: str) -> str:
    return f"{subject.name} {subject.dtype}{' packed' if subject.packed else ''} {name}"


def _remember(path: Path, subject: Subject, name: str, entry: Mapping[str, Any]) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    known[_key(subject, name)] = {**machine.describe(), **entry}
    _write(path, known)


def recall_best(subject: Subject, peers: Sequence[str], path: Path) -> dict[str, Choice]:
    """What the last search found."""
    known = json.loads(path.read_text()) if path.exists() else {}
    missing = [name for name in peers if _key(subject, name) not in known]
    if missing:
        sys.exit(f"{path} has no {', '.join(missing)} for {subject.name} {subject.dtype}: leave out --no-sweep")
    return {name: Choice(**known[_key(subject, name)]["best"]) for name in peers}


def rounds(subject: Subject, choices: Choices, options: argparse.Namespace) -> dict[str, Any]:
    """Closed loops of all servers in turn, round after round: by server and clients, each field's value a round."""
    found: dict[str, Any] = {name: {} for name in choices}
    for number in range(options.rounds):
        for name, choice in choices.items():
            for count, fields in subject.closed(name, choice, options.clients, options.seconds).items():
                into = found[name].setdefault(count, {field: [] for field in fields})
                for field, value in fields.items():
                    into[field].append(value)
                say(f"  {subject.name} round {number + 1}: {name}, {count} clients: {fields['throughput']:,.0f}/s")
    return found


def open_loops(subject: Subject, choices: Choices, closed: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Open loops at fractions of each server's own best, by server."""
    found = {}
    for name, choice in choices.items():
        best = max(report.middle(load, "throughput") for load in closed[name].values())
        found[name] = subject.open(name, choice, [fraction * best for fraction in FRACTIONS], seconds)
        say(f"  {subject.name}: {name}, open loop up to {FRACTIONS[-1] * best:,.0f}/s")
    return found


def compare(subject: Subject, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one generator."""
    path = options.out / "sweep.json"
    if options.no_sweep:
        best = recall_best(subject, options.peers, path)
    else:
        best = find_best(subject, options.peers, options.sweep_seconds, path)
    choices: Choices = {report.OURS: None, **best}
    closed = rounds(subject, choices, options)
    opened = {} if options.no_open else open_loops(subject, choices, closed, options.seconds)
    servers = {
        name: {"how": str(choice or AS_SHIPPED), "closed": closed[name], "open": opened.get(name, [])}
        for name, choice in choices.items()
    }
    composed = limit.measure(subject.name, subject.conditional, options.seconds)
    about = {"dtype": subject.dtype, "runtime": subject.runtime, "packed_peers": subject.packed}
    return {**about, "servers": servers, "limit": composed.as_json()}


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generators", nargs="+", choices=generators.NAMES, default=generators.NAMES)
    parser.add_argument("--peers", nargs="*", choices=SPACES, default=tuple(SPACES))
    parser.add_argument("--clients", nargs="+", type=int, default=CLIENTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="of each load")
    parser.add_argument("--sweep-seconds", type=float, default=2, help="of each load while searching")
    parser.add_argument("--no-sweep", action="store_true", help="run the peers as the last search found best")
    parser.add_argument("--no-open", action="store_true", help="leave out the open loops")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of all; by default what the service chooses")
    parser.add_argument("--packed-peers", action="store_true", help="give the peers the network as our worker packs it")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON files")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server that runs is ended too
    run: dict[str, Any] = {**machine.describe(), "generators": {}}
    for name in options.generators:
        run["generators"][name] = compare(Subject(name, options.dtype, options.packed_peers), options)
        _write(options.out / "compare.json", run)
    print(report.full(run))


if __name__ == "__main__":
    main()
