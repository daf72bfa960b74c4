"""The servers under fault: how each is started, which process computes, which processes are its own, and their end.

A server's processes are known by a variable of their environment, which all descendants inherit whatever becomes of
their parents: the path of the file where the network notes what it computed. They are ended by number, never by name.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path

from benchmarks import server
from benchmarks.fault_client import Door
from benchmarks.generators import ROOT
from benchmarks.peers import faults
from benchmarks.peers.contract import ROUTE, Config
from benchmarks.server import Launch

OURS = "genserve"
PACKAGES = {"fastapi": "fastapi", "litserve": "litserve", "mosec": "mosec", "bentoml": "bentoml"}
NAMES = (OURS, *PACKAGES)
FOLDER = ROOT / "build/bench/faults"
MAX_BATCH, WINDOW = 8, 50  # rows; milliseconds, so that what is sent together is one batch
LATENCY_BOUND = 60_000  # BentoML's own default in milliseconds


@dataclass(frozen=True)
class Site:
    """A server that runs.

    Attributes:
        door: where it takes requests.
        process: the one that was started.
        log: what the network computed.
    """

    door: Door
    process: subprocess.Popen[bytes]
    log: Path

    def batches(self) -> list[tuple[int, list[float]]]:
        """Process and marks of each batch so far, in order."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(int(pid), [float.fromhex(mark) for mark in marks]) for pid, *marks in map(str.split, lines)]

    def computed(self, seeds: Sequence[int]) -> int:
        """How many of these have been computed."""
        seen = {mark for _, marks in self.batches() for mark in marks}
        return sum(faults.mark(seed) in seen for seed in seeds)

    def mates(self, seed: int) -> int:
        """The most rows of these tests in a batch with this one, itself included; padding left out."""
        mark = faults.mark(seed)
        return max((sum(m != 0 for m in marks) for _, marks in self.batches() if mark in marks), default=0)

    def worker(self) -> int:
        """The process that computed last."""
        return self.batches()[-1][0]

    def family(self) -> dict[int, int]:
        """The server's processes that run, whoever their parents are: number to time of birth."""
        return family(self.log)


def family(log: Path) -> dict[int, int]:
    """The processes that run with this file in their environment: number to time of birth."""
    wanted = f"{faults.LOG}={log}".encode()
    found = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdecimal() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = server._born(int(folder.name)) or 0
    return found


@contextlib.contextmanager
def site(name: str, workers: int, limit: float | None = None) -> Iterator[Site]:
    """A server with so many workers from its first good answer on; afterwards none of its processes is left.

    Args:
        name: genserve or a peer.
        workers: processes that compute.
        limit: seconds for the watchdog, or for a request at peers that have a time limit; None for their defaults.

    Raises:
        ServerError: it does not start.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    log = FOLDER / f"{name}-{os.getpid()}-{time.monotonic_ns()}.log"
    launch = _launch(name, workers, limit, log)
    try:
        with server.running(launch) as process:
            yield Site(Door(launch.port, launch.path), process, log)
    finally:
        _end(log)
        log.unlink(missing_ok=True)


def _launch(name: str, workers: int, limit: float | None, log: Path) -> Launch:
    port = server.free_port()
    environment = {faults.LOG: str(log), "PYTHONPATH": str(ROOT)}
    environment |= {} if limit is None else {faults.TIMEOUT: str(limit)}
    if name == OURS:
        return _ours(port, workers, limit, environment)
    window = WINDOW if name != "bentoml" else LATENCY_BOUND if limit is None else round(limit * 1000)
    folder = faults.write(FOLDER / "weights")
    config = Config(folder, port, workers=workers, max_batch=MAX_BATCH, window=window, variant="thread")
    environment |= {**server.HELPS.get(name, {}), **config.environment()}
    command = [str(server.VENVS / name / "bin/python"), "-m", f"benchmarks.peers.fault_{name}"]
    return Launch(f"fault-{name}", command, port, ROUTE, environment)


def _ours(port: int, workers: int, limit: float | None, environment: dict[str, str]) -> Launch:
    weights = faults.write(FOLDER / "weights").parent
    command = [sys.executable, "-m", "app.cli", "serve", "--weights", str(weights), "--port", str(port)]
    command += ["--device", ",".join(["cpu"] * workers), "--dtype", "fp32", "--threads", "1"]
    own = {"GENSERVE_MODELS_MODULE": "benchmarks.peers.faults", "GENSERVE_MAX_BATCH": str(MAX_BATCH)}
    own |= {} if limit is None else {"GENSERVE_WATCHDOG": str(limit)}
    return Launch(f"fault-{OURS}", command, port, "/v1/images/generate", environment | own)


def _end(log: Path) -> None:
    """End what a server has left behind: a process that answers no signal but SIGKILL, or that lost its parents."""
    deadline = time.monotonic() + server.STOP_SECONDS
    while (left := family(log)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def describe(name: str) -> str:
    """The version that is tested."""
    if name == OURS:
        return version("genserve")
    packages = (server.VENVS / name / "lib").glob("python*/site-packages")
    known = {found.name: found.version for found in distributions(path=[str(path) for path in packages])}
    return known.get(PACKAGES[name], "?")
