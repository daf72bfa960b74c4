"""Starts a server, ours or a peer's, checks its pictures, counts its CPU time, and surely ends it."""

import contextlib
import http.client
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.generators import ROOT, folder_of
from benchmarks.peers.contract import ROUTE, Body, Config

LOGS = ROOT / "build/bench/logs"
VENVS = ROOT / "build/bench/venvs"
HEADERS = {"Content-Type": "application/json"}
START_SECONDS, STOP_SECONDS, ANSWER_SECONDS, PAUSE = 120.0, 5.0, 30.0, 0.05
SEED, LABEL = 7, 7
TOLERANCE = {"float32": 1, "bfloat16": 6}  # grey levels
SETTING = {"float32": "fp32", "bfloat16": "bf16"}  # as the service's setting calls them
TICKS = os.sysconf("SC_CLK_TCK")
MODULES = {
    "fastapi": "benchmarks.peers.plain_fastapi",
    "litserve": "benchmarks.peers.litserve_server",
    "mosec": "benchmarks.peers.mosec_server",
    "bentoml": "benchmarks.peers.bentoml_service",
}


# What was measured to help, or keeps a peer from calling home. OpenMP's threads spin at barriers by default, which
# keeps the cores from LitServe's other processes; mosec is faster so.
HELPS = {"litserve": {"OMP_WAIT_POLICY": "PASSIVE"}, "bentoml": {"BENTOML_DO_NOT_TRACK": "True"}}


class ServerError(Exception):
    """A server did not start, or makes something else than it should."""


@dataclass(frozen=True)
class Launch:
    """How to start a server.

    Attributes:
        name: of its log file.
        command: program and arguments.
        port: on 127.0.0.1.
        path: of the route that is measured.
        environment: beside that of this process.
        probe: body of a request that is answered with 200 once the server has started.
    """

    name: str
    command: Sequence[str]
    port: int
    path: str
    environment: Mapping[str, str] = field(default_factory=dict)
    probe: bytes = b"{}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"


def ours(generator: str, dtype: str | None = None) -> Launch:
    """`genserve serve` as it is shipped, with this one model; a dtype only when another than its own is asked for."""
    folder, port = folder_of(generator), free_port()
    command = [sys.executable, "-m", "app.cli", "serve", "--weights", str(folder.parent), "--models", generator]
    environment = {"GENSERVE_DTYPE": SETTING[dtype]} if dtype else {}
    return Launch("genserve", [*command, "--port", str(port)], port, "/v1/images/generate", environment)


def peer(name: str, config: Config) -> Launch:
    """A peer in its own environment."""
    environment = {"PYTHONPATH": str(ROOT), **HELPS.get(name, {}), **config.environment()}
    return Launch(name, [str(VENVS / name / "bin/python"), "-m", MODULES[name]], config.port, ROUTE, environment)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def running(launch: Launch) -> Iterator[subprocess.Popen[bytes]]:
    """The server, from its first good answer to its surely being gone with all its children.

    Raises:
        ServerError: it ends, or does not answer in time.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / f"{launch.name}.log").open("wb") as log:
        process = subprocess.Popen(
            launch.command,
            cwd=ROOT,
            env={**os.environ, **launch.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait_until_ready(launch, process)
            yield process
        finally:
            stop(process)


def _wait_until_ready(launch: Launch, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    said, log = "nothing", f"see {LOGS}/{launch.name}.log"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerError(f"{launch.name} ended with status {process.returncode}: {log}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, _, answer = ask(launch, launch.probe, START_SECONDS)
            if status == 200:
                return
            said = f"{status}: {answer[:200]!r}"
        time.sleep(PAUSE)
    raise ServerError(f"{launch.name} did not start within {START_SECONDS:.0f} s, last answer {said}: {log}")


def ask(launch: Launch, body: bytes, seconds: float = ANSWER_SECONDS) -> tuple[int, Mapping[str, str], bytes]:
    """One request, answered within so many seconds: status, headers in lower case, body."""
    connection = http.client.HTTPConnection("127.0.0.1", launch.port, timeout=seconds)
    try:
        connection.request("POST", launch.path, body, HEADERS)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the whole group to end, then end whatever is left of the tree."""
    tree = descendants(process.pid)
    _signal_group(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    _signal_group(process.pid, signal.SIGKILL)
    for pid, born in tree.items():
        if _born(pid) == born:  # still the one that we started, not another with its number
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait()


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def descendants(root: int) -> dict[int, int]:
    """The process and all below it: number to time of birth."""
    stats = {int(path.name): _stat(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdecimal()}
    found, fresh = {}, [root]
    while fresh:
        found |= {pid: int(stats[pid][19]) for pid in fresh if stats.get(pid)}
        fresh = [pid for pid, stat in stats.items() if stat and int(stat[1]) in found and pid not in found]
    return found


def cpu_seconds(root: int) -> float:
    """CPU time of a process and all below it, with that of children that have ended and were waited for."""
    stats = [_stat(pid) for pid in descendants(root)]
    return sum(sum(map(int, stat[11:15])) for stat in stats if stat) / TICKS


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on (state, parent, ...); empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _born(pid: int) -> int | None:
    stat = _stat(pid)
    return int(stat[19]) if stat else None


def request_body(conditional: bool, seed: int | None = None) -> bytes:
    """The body of a request for one picture; the load's has no seed, so that every picture is another one."""
    return Body(seed=seed, label=LABEL if conditional else None).model_dump_json(exclude_none=True).encode()


def check(launch: Launch, dtype: str, conditional: bool, reference: NDArray[np.uint8]) -> None:
    """Ask for a certain picture and compare its pixels.

    Raises:
        ServerError: it is another one.
    """
    status, _, content = ask(launch, request_body(conditional, SEED))
    if status != 200:
        raise ServerError(f"{launch.name} answers {status}: {content[:200]!r}")
    picture = np.asarray(Image.open(io.BytesIO(content))).reshape(reference.shape)
    away = int(np.abs(picture.astype(int) - reference.astype(int)).max())
    if away > TOLERANCE[dtype]:
        raise ServerError(f"{launch.name}: seed {SEED} is {away} grey levels away from the reference")
