"""The comparison of text: the service in its precisions and the peers, on the same weights, in one run on one machine.

    python -m benchmarks.text_compare weights/NAME --llama build/bench/llama.cpp --transformers PROGRAM FOLDER [--quick]

Rounds in which every server is started in turn, asked for one completion, and loaded in closed loops; one server runs
at a time. Then the service's own network without HTTP, round by round too. Prints a table, writes results/text.json.
"""

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from app.engine.supervisor import WORKER_ENVIRONMENT
from benchmarks import machine, text_load, text_prompts, text_report, text_servers
from benchmarks.generators import ROOT
from benchmarks.peers import llama_cpp
from benchmarks.text_servers import OURS, TextServer, started

RESULTS = ROOT / "benchmarks/results"
TOKENIZER = "tokenizer.json"
QUICK = {"rounds": 1, "each": 1, "clients": [1, 16]}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def chosen(options: argparse.Namespace) -> list[TextServer]:
    """The servers that this run compares."""
    folder: Path = options.folder
    found = [text_servers.genserve(folder.parent, folder.name, dtype) for dtype in options.dtypes]
    if options.llama:
        found += [text_servers.llama(options.llama, precision) for precision in options.precisions]
    if options.transformers:
        found.append(text_servers.transformers(*options.transformers))
    return found


def load(server: TextServer, tokenizer: Tokenizer, options: argparse.Namespace) -> dict[str, Any]:
    """One start of one server: time to its first completion, its loads by clients, its memory after them.

    Raises:
        ServerError: it does not start.
    """
    lengths = options.prompt, options.tokens
    (first,) = text_prompts.make(tokenizer, options.prompt, 1, seed=-1)
    with started(server, first) as running:
        loads = {}
        for found in text_load.loads(running.target, tokenizer, options.clients, options.each, lengths, seed=0):
            loads[str(found.clients)] = dataclasses.asdict(found)
            said = f"{found.tokens_per_second:,.0f} tokens/s"
            say(f"  {server.name}, {found.clients} clients: {said} {'; '.join(found.errors)}")
        return {"first_seconds": running.first_seconds, "resident": running.resident, "loads": loads}


def rounds(servers: Sequence[TextServer], tokenizer: Tokenizer, options: argparse.Namespace) -> dict[str, Any]:
    """All servers in turn, round after round: by server, each field's value a round."""
    found: dict[str, Any] = {}
    for _ in range(options.rounds):
        for server in servers:
            into = found.setdefault(server.name, {"precision": server.precision, "command": _command(server)})
            _append(into, load(server, tokenizer, options))
    return found


def _command(server: TextServer) -> str:
    """How it was run, with the environment that it was given."""
    return " ".join([*(f"{name}={value}" for name, value in server.environment.items()), *server.command])


def _append(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Add each plain value of a nest of dicts to the list at its place."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            _append(into.setdefault(name, {}), value)
        else:
            into.setdefault(name, []).append(value)


def raw(options: argparse.Namespace) -> dict[str, Any]:
    """The network alone in each precision: by the service's name and rows, tokens/s a round."""
    found: dict[str, Any] = {}
    for _ in range(options.rounds):
        for dtype in options.dtypes:
            _append(found.setdefault(f"{OURS} {dtype}", {}), _raw(dtype, options))
    return found


def _raw(dtype: str, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.text_raw", str(options.folder), "--json", "--dtype", dtype]
    command += ["--prompt", str(options.prompt), "--tokens", str(options.tokens), "--each", str(options.each)]
    command += ["--threads", str(text_servers.THREADS), "--rows", *map(str, options.clients)]
    environment = WORKER_ENVIRONMENT | os.environ
    said = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True).stdout
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    say(f"  raw {dtype}: {', '.join(f'{rows}: {rate:,.0f}' for rows, rate in found.items())} tokens/s")
    return found


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """The whole run."""
    tokenizer = Tokenizer.from_file(str(options.folder / TOKENIZER))
    run: dict[str, Any] = {**machine.describe(), "model": options.folder.name}
    run |= {"prompt": options.prompt, "tokens": options.tokens, "clients": [str(count) for count in options.clients]}
    run["servers"] = rounds(chosen(options), tokenizer, options)
    run["raw"] = {} if options.no_raw else raw(options)
    return run


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", type=Path, help="the model's weights folder; a comparison needs them of the peers' file"
    )
    parser.add_argument("--dtypes", nargs="*", default=("bf16", "int8", "int4"), help="of the service")
    parser.add_argument("--llama", type=Path, help="where `peers.llama_cpp` has built and converted")
    parser.add_argument("--precisions", nargs="+", choices=llama_cpp.PRECISIONS, default=("BF16", "Q8_0", "Q4_0"))
    parser.add_argument(
        "--transformers", type=Path, nargs=2, metavar=("PROGRAM", "FOLDER"), help="and what `transformers_weights` made"
    )
    parser.add_argument("--clients", nargs="+", type=int, default=(1, 4, 8, 16))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--each", type=int, default=4, help="completions a client")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a completion")
    parser.add_argument("--no-raw", action="store_true", help="leave out the network without HTTP")
    parser.add_argument(
        "--quick", action="store_true", help="one short round of 1 and 16 clients, to see that all works"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "text.json", help="the JSON file")
    options = parser.parse_args(arguments)
    if options.quick:
        vars(options).update(QUICK)
    return options


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server that runs is ended too
    run = compare(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(run, indent=1) + "\n")
    print(text_report.full(run))


if __name__ == "__main__":
    main()
