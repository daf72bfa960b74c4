"""Runs `genserve serve` as users do: a process of its own, real sockets, signals, exit codes."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
LISTENING = re.compile(r"listening on (http://127\.0\.0\.1:\d+)")
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "GENSERVE_MODELS_MODULE": "tests.fakes",
    "GENSERVE_THREADS": "1",
    "GENSERVE_DTYPE": "fp32",  # so that what the fakes paint is exact
}
PATIENCE = 90.0  # seconds; generous, because the machine may be busy with other work
START_PATIENCE = 300.0  # warm-up runs every batch size several times


class Server:
    """A served process with its log and its workers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.url = ""
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines += _message(line).splitlines()
                self._changed.notify_all()

    @property
    def log(self) -> str:
        """All that the process and its workers have said so far."""
        return "\n".join(self.lines)

    def wait_listening(self) -> None:
        with self._changed:
            found = self._changed.wait_for(lambda: LISTENING.search(self.log) or not self._reader.is_alive(), PATIENCE)
        match = LISTENING.search(self.log)
        assert found, "the server says nothing"
        assert match, f"the server does not listen:\n{self.log}"
        self.url = match[1]

    def wait_ready(self) -> None:
        wait_until(
            lambda: self.process.poll() is not None or self._answers(), "the server is not ready", START_PATIENCE
        )
        assert self.process.poll() is None, f"the server ended:\n{self.log}"

    def _answers(self) -> bool:
        return httpx.get(f"{self.url}/health/ready", timeout=PATIENCE).status_code == 200

    @property
    def workers(self) -> list[int]:
        """Process ids of the children that run a device worker."""
        if self.process.poll() is not None:
            return []
        lists = Path(f"/proc/{self.process.pid}/task").glob("*/children")  # a child belongs to the thread that made it
        children = {int(pid) for children in lists for pid in proc(children).split()}
        return sorted(pid for pid in children if is_worker(pid))

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        return metric(httpx.get(f"{self.url}/metrics", timeout=PATIENCE).text, name, **labels)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait_exit(self) -> int:
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status


def _message(line: str) -> str:
    """What a line of the log says: the service writes JSON when nobody watches, an interpreter's traceback is plain."""
    try:
        record = json.loads(line)
        return record["message"] + record.get("traceback", "")
    except (ValueError, KeyError, TypeError):
        return line


def metric(text: str, name: str, **labels: str) -> float:
    """The sum over the samples of a metric, in Prometheus' text format, that carry these labels."""
    total = 0.0
    for line in text.splitlines():
        sample, _, value = line.rpartition(" ")
        if re.split(r"[{ ]", sample)[0] == name and all(f'{k}="{v}"' in sample for k, v in labels.items()):
            total += float(value)
    return total


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Poll for a state that nothing announces; the limit is for hangs, no test rests on how long it takes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


async def eventually(condition: Callable[[], object]) -> None:
    """The same on an event loop, which goes on meanwhile."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # many states, few of which are announced
            await asyncio.sleep(0.001)


def proc(path: Path) -> str:
    """A file of /proc; nothing when its process or thread ended just now, before the file was opened or read."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def alive(pid: int) -> bool:
    """Whether a process still runs (a zombie does not)."""
    state = proc(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return bool(state) and state[0] not in "ZX"


def is_worker(pid: int) -> bool:
    """Whether a process runs a device worker."""
    return "app.worker" in proc(Path(f"/proc/{pid}/cmdline"))


@contextlib.contextmanager
def serving(*flags: str, env: dict[str, str] | None = None, until: str = "ready") -> Iterator[Server]:
    """`genserve serve` on a free port of 127.0.0.1; whatever happens, no process of it is left behind."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GENSERVE_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "serve", "--port", "0", *flags],
        cwd=ROOT,
        env={**clean, **ENVIRONMENT, **(env or {})},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    server, workers = Server(process), []
    try:
        if until != "started":
            server.wait_listening()
        if until == "ready":
            server.wait_ready()
        workers = server.workers
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in workers:
            with contextlib.suppress(AssertionError):
                wait_until(lambda pid=pid: not alive(pid), "", 10)
            if alive(pid) and is_worker(pid):
                os.kill(pid, signal.SIGKILL)
        assert process.stderr is not None
        server._reader.join(15)
        process.stderr.close()
