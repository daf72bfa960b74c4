"""How cost grows: with pictures a request, queue depth, models, workers, model size; and what idleness costs.

    python -m benchmarks.growth [--only latency queue departures models workers sizes idle]

Starts `genserve serve` as it is shipped, once or more a question, with a client on the same machine. Each question's
figures go to results/growth.json beside those of earlier runs, with date, commit and machine of their own. Prints a
table a question, and how steeply costs grow.
"""

import argparse
import contextlib
import json
import math
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.bench import wrk
from app.bench.result import Result
from app.engine.jobs import LatentJob
from app.worker.dynamic import DynamicBatcher
from benchmarks import generators, machine, server
from benchmarks.crowd import Crowd, request
from benchmarks.server import HEADERS, Launch
from models.files import CONFIG_FILE

RESULTS = generators.ROOT / "benchmarks/results/growth.json"
FOLDERS = generators.ROOT / "build/bench/growth"
SHIPPED = generators.ROOT / "weights"
MODEL, PATH = generators.SHIPPED, "/v1/images/generate"
PICTURES = (1, 2, 4, 8, 16, 32, 64)
ACCEPTS = {"sheet": "image/png", "zip": "application/zip"}
DEPTHS = (1, 10, 100, 1_000, 10_000)
MODELS = (1, 2, 5, 10, 20)
DEVICES = ("cpu", "cpu,cpu")
CLIENTS = (1, 8, 32)
SMALL: Mapping[str, Any] = {"channels": [64, 32], "base_size": 7, "image_channels": 1}
# Two layers that hold nearly all parameters, 8 * C * C + 400 * C; pictures of 8 x 8, so that loading is not lost in
# the time that computing takes at warm-up.
SIZES = {"0.1M": 90, "1M": 330, "4M": 682, "16M": 1390, "64M": 2804}
ROUNDS = 3
IDLE_SECONDS = 20.0
SETTLE_SECONDS = 1.0

Row = dict[str, Any]


@dataclass
class Running:
    """A server that answers.

    Attributes:
        launch: how it was started.
        pid: of its HTTP process.
        start_seconds: from its launch to its first picture.
    """

    launch: Launch
    pid: int
    start_seconds: float

    def memory(self) -> Row:
        """Resident bytes now and at most, of the HTTP process and of its workers together."""
        others = [pid for pid in server.descendants(self.pid) if pid != self.pid]
        rss, peak = zip(*map(_resident, others), strict=True)
        http_rss, http_peak = _resident(self.pid)
        return {"http_rss": http_rss, "http_peak": http_peak, "workers_rss": sum(rss), "workers_peak": sum(peak)}

    def cpu_seconds(self) -> float:
        return server.cpu_seconds(self.pid)


def _resident(pid: int) -> tuple[int, int]:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    now, most = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


@contextlib.contextmanager
def serving(weights: Path, *names: str, device: str = "cpu", **settings: object) -> Iterator[Running]:
    """A server of these models (none named: all) until the block ends."""
    port = server.free_port()
    command = [sys.executable, "-m", "app.cli", "serve", "--weights", str(weights), "--port", str(port)]
    command += ["--device", device, *(["--models", ",".join(names)] if names else [])]
    environment = {f"GENSERVE_{name.upper()}": str(value) for name, value in settings.items()}
    launch = Launch(f"growth-{port}", command, port, PATH, environment)
    start = time.perf_counter()
    with server.running(launch) as process:
        yield Running(launch, process.pid, time.perf_counter() - start)


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def latency(seconds: float) -> list[Row]:
    """One client, one request after the other, by pictures a request and what they are packed in; median of rounds."""
    rows = []
    with serving(SHIPPED, MODEL) as running:
        wrk.closed_loop(running.launch.url, b"{}", 8, SETTLE_SECONDS, HEADERS)
        rounds = [_latencies(running.launch.url, seconds / 2) for _ in range(ROUNDS)]
        for (packing, n), *found in zip(rounds[0], *(results.values() for results in rounds), strict=True):
            p50, p99 = (statistics.median(getattr(result, name) for result in found) for name in ("p50", "p99"))
            rows.append({"packing": packing, "n": n, "p50": p50, "p99": p99, "failed": sum(r.failed for r in found)})
    return rows


def _latencies(url: str, seconds: float) -> dict[tuple[str, int], Result]:
    found = {}
    for packing, accept in ACCEPTS.items():
        for n in PICTURES:
            headers = {**HEADERS, "Accept": accept}
            found[packing, n] = wrk.closed_loop(url, body(model=MODEL, n=n), 1, seconds, headers)
    return found


def queue(seconds: float) -> list[Row]:
    """Bursts of so many requests for one picture at once, each on a connection of its own, that was open before."""
    rows = []
    message = request(PATH, body(model=MODEL))
    with serving(SHIPPED, MODEL, max_queue=2 * max(DEPTHS), log_level="warning") as running:
        for depth in DEPTHS:
            with Crowd(running.launch.port, depth) as crowd:
                crowd.burst(message)
                found = _bursts(running, crowd, message, seconds)
                rows.append({"depth": depth, "connect_seconds": crowd.connect_seconds, **found})
    return rows


def _bursts(running: Running, crowd: Crowd, message: bytes, seconds: float) -> Row:
    """Burst after burst for so long: seconds and the server's CPU seconds a picture, seconds to the first answer."""
    took, pictures, before = list[list[float]](), 0, running.cpu_seconds()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(took) < 2:
        took.append(crowd.burst(message))
        pictures += len(took[-1])
    spent = running.cpu_seconds() - before
    return {
        "bursts": len(took),
        "first_seconds": statistics.median(burst[0] for burst in took),
        "all_seconds": statistics.median(burst[-1] for burst in took),
        "seconds_each": sum(burst[-1] for burst in took) / pictures,
        "cpu_seconds": spent / len(took),
        "cpu_seconds_each": spent / pictures,
    }


class Sizes:
    """As much of a model's runner as a batcher asks for when nothing is computed."""

    buckets, seconds = (1,), (1e-3,)

    def bucket_for(self, rows: int) -> int:
        return rows

    def compute(self, inputs: Any, labels: Any) -> Any:
        raise NotImplementedError


def departures(seconds: float) -> list[Row]:
    """One client after the other gives its request up: what the worker's batcher takes to forget it, by queue depth.

    The batcher alone: in a whole server the cost is lost among that of computing.
    """
    rows = []
    for depth in DEPTHS:
        leaving = 1 + depth // 10  # so few that the queue stays about as long as it is
        took, end = list[float](), time.perf_counter() + seconds / 2
        while time.perf_counter() < end:
            batcher = _batcher(depth)
            start = time.perf_counter()
            for number in range(leaving):
                batcher.cancel({number})
            took.append((time.perf_counter() - start) / leaving)
        each = statistics.median(took)
        rows.append({"depth": depth, "seconds_each": each, "all_seconds": each * depth})
    return rows


def _batcher(depth: int) -> DynamicBatcher:
    """With so many jobs for one picture in its queue."""
    batcher, job = DynamicBatcher(Sizes()), LatentJob(MODEL, np.zeros((1, 64), np.float32), np.zeros(1, np.int64))
    for number in range(depth):
        batcher.submit(number, job)
    return batcher


def models(seconds: float) -> list[Row]:
    """Copies of one small network under different names."""
    rows = []
    names = copies(max(MODELS))
    for count in MODELS:
        messages = [request(PATH, body(model=name)) for name in names[:count]]
        with serving(FOLDERS / "copies", *names[:count]) as running:
            _warm(running, messages)
            row = {"models": count, "start_seconds": running.start_seconds, **running.memory()}
            with Crowd(running.launch.port, 1) as crowd:
                row["p50"] = statistics.median(crowd.closed_loop(messages[:1], seconds))
            with Crowd(running.launch.port, 8) as crowd:
                before = running.cpu_seconds()
                answered = len(crowd.closed_loop(messages, seconds))
                spent = running.cpu_seconds() - before
                row |= {"throughput": answered / seconds, "cpu_seconds_each": spent / answered}
        rows.append(row)
    return rows


def _warm(running: Running, messages: Sequence[bytes]) -> None:
    with Crowd(running.launch.port, 8) as crowd:
        crowd.closed_loop(messages, SETTLE_SECONDS)


def copies(count: int) -> list[str]:
    """Weights folders of one small network, so many times; their names."""
    names = [f"copy-{number:02d}" for number in range(count)]
    first, *others = names
    generators.write(FOLDERS / "copies" / first, SMALL)
    for name in others:
        shutil.copytree(FOLDERS / "copies" / first, FOLDERS / "copies" / name, dirs_exist_ok=True)
    return names


def workers(seconds: float) -> list[Row]:
    """One worker, and two on the same device."""
    rows = []
    for device in DEVICES:
        with serving(SHIPPED, MODEL, device=device) as running:
            row = {"device": device, "start_seconds": running.start_seconds, **running.memory()}
            wrk.closed_loop(running.launch.url, b"{}", 8, SETTLE_SECONDS, HEADERS)
            for count in CLIENTS:
                found = wrk.closed_loop(running.launch.url, b"{}", count, seconds, HEADERS)
                row[f"throughput_{count}"], row[f"p99_{count}"] = found.answered / found.seconds, found.p99
        rows.append(row)
    return rows


def sizes(_: float) -> list[Row]:
    """Networks of one shape and more and more parameters: from launch to the first picture, and the memory then."""
    rows = []
    for name, channels in SIZES.items():
        folder = FOLDERS / f"sizes/size-{name.lower()}"
        config = {"channels": [channels, channels // 2], "base_size": 2, "image_channels": 1}
        if not (folder / CONFIG_FILE).exists():
            generators.write(folder, config)
        with serving(folder.parent, folder.name) as running:
            rows.append(
                {"parameters": parameters(channels), "start_seconds": running.start_seconds, **running.memory()}
            )
    return rows


def parameters(channels: int) -> int:
    """Of a network of `sizes`, its normalisations included."""
    half = channels // 2
    return 400 * channels + 16 * half * (channels + 1) + 2 * (channels + half)


def idle(_: float) -> list[Row]:
    """CPU seconds of both processes while nothing is asked, after warm-up and after load, with one model and many.

    Both servers are idle side by side.
    """
    names = copies(max(MODELS))
    with contextlib.ExitStack() as stack:
        found = {count: stack.enter_context(serving(FOLDERS / "copies", *names[:count])) for count in (1, max(MODELS))}
        rows = _idleness(found, "warm-up")
        for count, running in found.items():
            _warm(running, [request(PATH, body(model=name)) for name in names[:count]])
        return rows + _idleness(found, "load")


def _idleness(found: Mapping[int, Running], after: str) -> list[Row]:
    time.sleep(SETTLE_SECONDS)
    before = {count: running.cpu_seconds() for count, running in found.items()}
    time.sleep(IDLE_SECONDS)
    return [
        {"models": count, "after": after, "seconds": IDLE_SECONDS, "cpu_seconds": running.cpu_seconds() - before[count]}
        for count, running in found.items()
    ]


QUESTIONS: Mapping[str, Callable[[float], list[Row]]] = {
    "latency": latency,
    "queue": queue,
    "departures": departures,
    "models": models,
    "workers": workers,
    "sizes": sizes,
    "idle": idle,
}

# What grows with what, where linear growth is the most that is well.
COSTS: Mapping[str, tuple[str, Sequence[str]]] = {
    "latency": ("n", ["p50", "p99"]),
    "queue": ("depth", ["connect_seconds", "all_seconds", "cpu_seconds"]),
    "departures": ("depth", ["all_seconds"]),
    "models": ("models", ["start_seconds", "workers_peak", "p50"]),
    "sizes": ("parameters", ["start_seconds", "workers_rss", "workers_peak"]),
}


def exponent(rows: Sequence[Row], size: str, cost: str) -> float:
    """Of the power of the size that the cost grows with, between the two largest sizes; 1 when it is linear."""
    before, last = rows[-2:]
    return math.log(last[cost] / before[cost]) / math.log(last[size] / before[size])


def growth(question: str, rows: Sequence[Row]) -> str:
    """The exponents of a question's costs, in one line; empty when it has no size."""
    size, costs = COSTS.get(question, ("", ()))
    said = [f"{cost} ~ {size}^{exponent(rows, size, cost):.2f}" for cost in costs]
    return f"between the two largest: {', '.join(said)}\n" if said else ""


def table(rows: Sequence[Row]) -> str:
    """Rows as text."""
    lines = [list(rows[0]), *([f"{v:.4g}" if isinstance(v, float) else f"{v}" for v in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{cell:>{w}}" for cell, w in zip(line, widths, strict=True)) for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, default=tuple(QUESTIONS))
    parser.add_argument("--seconds", type=float, default=2, help="of each load")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server that runs is ended too
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in options.only:
        rows = QUESTIONS[name](options.seconds)
        known[name] = {**machine.describe(), "rows": rows}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(known, indent=1) + "\n")
        print(f"{name}: {QUESTIONS[name].__doc__.splitlines()[0]}\n{table(rows)}\n{growth(name, rows)}", flush=True)


if __name__ == "__main__":
    main()
