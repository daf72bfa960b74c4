"""A real `genserve serve` with the poisoned models, its worker a process; what it holds is measured from outside."""

import contextlib
import dataclasses
import http.client
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models import checkpoint
from models.config import read_config, write_config
from tests import fake_outputs, fakes
from tests import serving as plain
from tests.chaos import poison
from tests.serving import PATIENCE, Server, alive, is_worker, serving, wait_until

# Limits are short, so that a test can wait for them; the watchdog stays well above what a busy machine delays.
ENVIRONMENT = {
    "GENSERVE_MODELS_MODULE": "tests.chaos.poison",
    "GENSERVE_MAX_BATCH": "16",
    "GENSERVE_MAX_SLOTS": "8",
    "GENSERVE_MAX_PIXELS": str(1 << 22),
    "GENSERVE_MAX_CONNECTIONS": "256",
    "GENSERVE_MAX_RESTARTS": "1000",
    "GENSERVE_REQUEST_TIMEOUT": "60",
    "GENSERVE_WATCHDOG": "3",
    "GENSERVE_READ_TIMEOUT": "3",
    "GENSERVE_WRITE_TIMEOUT": "3",
    "GENSERVE_PING_SECONDS": "0.5",
}
READ_SECONDS = WRITE_SECONDS = 3.0
CONNECTIONS = 256
SLOTS = 8
MAX_LENGTH = 512
MEBIBYTE = 1 << 20
POOL_THREADS = 8  # the encoders' and asyncio's own pool grow when they are first needed, up to so many in all
MEMORY_SLACK = 64 * MEBIBYTE  # allocators keep what they had at their peak
SETTLE_SECONDS = 30.0


def write_models(weights: Path) -> Path:
    """The folder of weights of the shared servers."""
    poison.write(weights, "poisoned", milliseconds=1)
    poison.write(weights, "wide")
    poison.write(weights, "cycle", max_length=MAX_LENGTH)
    _let_chat(weights / "cycle")
    fakes.write(weights, "reader", "echo-encoder", gate=str(gate(weights)))
    fake_outputs.write_painter(weights)
    fake_outputs.write_scribe(weights)
    fake_outputs.write_humming(weights)
    return weights


def _let_chat(folder: Path) -> None:
    """Give a text model a chat template: every message's text, one after the other."""
    template = checkpoint.write_template(folder, "{% for message in messages %}{{ message.content }} {% endfor %}")
    write_config(folder, dataclasses.replace(read_config(folder), chat_template=template))


def gate(weights: Path) -> Path:
    """While this file is there, pictures whose first pixel says so hold the device up."""
    return weights / "reader" / "gate"


@contextlib.contextmanager
def started(weights: Path, *flags: str, until: str = "ready", **settings: object) -> Iterator[Server]:
    """A server with the settings of this file; keyword arguments override. No worker of it is left behind."""
    own = {f"GENSERVE_{name.upper()}": str(value) for name, value in settings.items()}
    with serving("--weights", str(weights), *flags, env={**ENVIRONMENT, **own}, until=until) as server:
        server.threads = int(settings.get("threads", 1))
        try:
            yield server
        finally:
            workers = server.workers  # those of now: restarts have made new ones
            if server.process.poll() is None:
                server.terminate()
                with contextlib.suppress(Exception):
                    server.process.wait(30)
            _bury(workers)


def _bury(workers: list[int]) -> None:
    """End what the server should have ended; a stopped process does not see that its socket was closed."""
    for pid in workers:
        if alive(pid) and is_worker(pid):
            os.kill(pid, signal.SIGKILL)


def get(server: Server, path: str) -> tuple[int, bytes]:
    """Status and body; a tenth of what it costs with the client of the other tests, and asked all the time."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read()


def metric(server: Server, name: str, **labels: str) -> float:
    """The sum of a metric's samples that carry these labels."""
    return plain.metric(get(server, "/metrics")[1].decode(), name, **labels)


def readiness(server: Server) -> tuple[int, str]:
    """What the server says about itself."""
    status, body = get(server, "/health/ready")
    return status, json.loads(body)["status"]


def ready(server: Server) -> bool:
    """Whether the server says that it takes work."""
    return readiness(server)[0] == 200


def wait_ready(server: Server) -> None:
    wait_until(lambda: server.process.poll() is not None or ready(server), "the server does not get ready again")
    assert server.process.poll() is None, f"the server ended:\n{server.log}"


def worker(server: Server) -> int:
    """The process id of the one worker, once there is one."""
    wait_until(lambda: len(server.workers) == 1, "there is no worker, or more than one")
    return server.workers[0]


def restarts(server: Server) -> float:
    """How often a worker was started again."""
    return metric(server, "genserve_worker_restarts_total")


@dataclass(frozen=True)
class Footprint:
    """What a server and its workers hold: of each process the resident bytes, open files and threads."""

    memory: tuple[int, ...]
    descriptors: tuple[int, ...]
    threads: tuple[int, ...]
    slots: float
    queued: float

    def fits(self, before: "Footprint") -> bool:
        """Whether no more is held than before, save threads of pools and memory, which is looked at last."""
        held = (self.descriptors, self.threads)
        allowed = (before.descriptors, tuple(count + POOL_THREADS for count in before.threads))
        few = all(a <= b for mine, most in zip(held, allowed, strict=True) for a, b in zip(mine, most, strict=True))
        return len(self.memory) == len(before.memory) and few and self.slots == 0 and self.queued == 0


def footprint(server: Server) -> Footprint:
    """What is held now."""
    text = get(server, "/metrics")[1].decode()
    pids = [server.process.pid, *server.workers]
    return Footprint(
        tuple(_resident(pid) for pid in pids),
        tuple(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
        tuple(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids),
        plain.metric(text, "genserve_slots_busy"),
        plain.metric(text, "genserve_queue_depth"),
    )


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def settled(server: Server) -> Footprint:
    """What is held once nothing changes any more."""
    deadline, last, same = time.monotonic() + SETTLE_SECONDS, footprint(server), 0
    while same < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
        now = footprint(server)
        calm = now.queued == now.slots == 0 and now.descriptors == last.descriptors
        last, same = now, same + 1 if calm else 0
    return last


def check_restored(server: Server, before: Footprint) -> None:
    """Everything that was taken is given back: slots, places in the queue, open files, threads, memory."""
    wait_ready(server)
    now = footprint(server)
    deadline = time.monotonic() + SETTLE_SECONDS
    while not now.fits(before) and time.monotonic() < deadline:
        time.sleep(0.1)
        now = footprint(server)
    assert now.fits(before), f"held before: {before}; now: {now}"
    grown = [(b - a) / MEBIBYTE for a, b in zip(before.memory, now.memory, strict=True)]
    assert max(grown) * MEBIBYTE < MEMORY_SLACK, f"grown by MiB: {grown}"
