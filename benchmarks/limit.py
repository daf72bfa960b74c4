"""The composed limit: requests/s if the cores did nothing but the three parts of a request that nobody can spare."""

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from app.bench import wrk
from app.engine.supervisor import WORKER_ENVIRONMENT
from benchmarks import parts
from benchmarks.generators import ROOT
from benchmarks.server import HEADERS, Launch, cpu_seconds, free_port, request_body, running
from benchmarks.sweep import CLIENTS


@dataclass(frozen=True)
class Limit:
    """CPU seconds of each part; `client` is the load generator's own, which runs on the same cores."""

    cores: int
    request: float
    model: float
    png: float
    client: float
    batch: int

    @property
    def ours(self) -> float:
        """CPU seconds of a request's three parts."""
        return self.request + self.model + self.png

    @property
    def throughput(self) -> float:
        """Requests/s, the load generator taken to cost nothing."""
        return self.cores / self.ours

    @property
    def beside_client(self) -> float:
        """Requests/s with the load generator on the same cores."""
        return self.cores / (self.ours + self.client)

    def as_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "throughput": self.throughput, "beside_client": self.beside_client}


def measure(generator: str, conditional: bool, seconds: float) -> Limit:
    """Each part alone, one after the other."""
    request, client = _request(request_body(conditional), seconds)
    model = _part("model", generator)
    png = _part("png", generator)
    cores = len(os.sched_getaffinity(0))
    return Limit(cores, request, model["cpu_seconds"], png["cpu_seconds"], client, model["batch"])


def _request(body: bytes, seconds: float) -> tuple[float, float]:
    """CPU seconds of one bare request, at the server and at the client."""
    port = free_port()
    launch = Launch("bare", [sys.executable, "-m", "benchmarks.parts", "request", str(port)], port, parts.PATH)
    with running(launch) as process:
        wrk.closed_loop(launch.url, body, CLIENTS, 1, HEADERS)
        before = cpu_seconds(process.pid)
        result = wrk.closed_loop(launch.url, body, CLIENTS, seconds, HEADERS)
        spent = cpu_seconds(process.pid) - before
    return spent / result.answered, result.client_cpu_seconds / result.answered


def _part(part: str, generator: str) -> dict[str, Any]:
    said = subprocess.run(
        [sys.executable, "-m", "benchmarks.parts", part, generator],
        cwd=ROOT,
        env=WORKER_ENVIRONMENT | os.environ,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found
