"""One generator as every server of a comparison serves it, and the loads put on it."""

import asyncio
import io
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.bench import load, wrk
from app.bench.result import Result
from app.bench.target import PICTURE, Target
from benchmarks import report, server, sweep
from benchmarks.generators import folder_of
from benchmarks.peers.contract import Body, Config
from benchmarks.server import HEADERS, Launch, ServerError, cpu_seconds, running
from benchmarks.sweep import Choice
from models.config import read_config

FIELDS = ("throughput", "answered", "refused", "failed", "p50", "p99", "client_cpu_seconds")
WARM_SECONDS = 1
ARRIVALS_SEED = 0


class Subject:
    """A generator with the picture that every server must make, and the dtype that all of them compute in.

    Attributes:
        name: of the generator.
        conditional: it has labels.
        runtime: what the service says that it runs on.
        dtype: that all servers compute in: the service's own choice, unless another is asked for.
        packed: the peers' networks are prepared for the CPU as the service's worker prepares its own.
    """

    def __init__(self, name: str, dtype: str | None = None, packed: bool = False) -> None:
        self.name, self.packed, self._asked = name, packed, dtype
        self._folder = folder_of(name)
        self.conditional = bool(read_config(self._folder).labels)
        self._body = server.request_body(self.conditional)
        self._reference = self._make_reference()
        self.runtime = self._ask_runtime()
        self.dtype = self.runtime.split("; ")[1]

    def _make_reference(self) -> NDArray[np.uint8]:
        from benchmarks.peers.generator import Generator  # imports torch

        body = Body.model_validate_json(server.request_body(self.conditional, server.SEED))
        (content,) = Generator(Config(self._folder, port=0, max_batch=1)).pictures([body])
        return np.asarray(Image.open(io.BytesIO(content)))

    def _ask_runtime(self) -> str:
        launch = self._launch(report.OURS, None)
        with running(launch):
            return server.ask(launch, self._body)[1]["x-genserve-runtime"]

    def _launch(self, name: str, choice: Choice | None) -> Launch:
        """The service, or a peer in this configuration, on a free port."""
        if choice is None:
            return server.ours(self.name, self._asked)
        config = Config(self._folder, server.free_port(), self.dtype, packed=int(self.packed), **vars(choice))
        return server.peer(name, config)

    def _check(self, launch: Launch) -> None:
        server.check(launch, self.dtype, self.conditional, self._reference)
        wrk.closed_loop(launch.url, self._body, sweep.CLIENTS, WARM_SECONDS, HEADERS)

    def closed(self, name: str, choice: Choice | None, clients: Sequence[int], seconds: float) -> dict[str, Any]:
        """Closed loops, fewest clients first: the fields of each by number of clients.

        Raises:
            ServerError: the server does not start or makes another picture.
        """
        launch, found = self._launch(name, choice), {}
        with running(launch) as process:
            self._check(launch)
            for count in clients:
                before = cpu_seconds(process.pid)
                result = wrk.closed_loop(launch.url, self._body, count, seconds, HEADERS)
                spent = cpu_seconds(process.pid) - before
                found[str(count)] = {**_fields(result), "server_cpu_seconds": spent}
        return found

    def score(self, name: str, choice: Choice, seconds: float) -> dict[str, Any]:
        """One closed loop for the sweep; a configuration that does not work answers nothing."""
        try:
            (found,) = self.closed(name, choice, [sweep.CLIENTS], seconds).values()
        except ServerError as error:
            return {"throughput": 0.0, "p99": None, "failed": 0, "error": str(error)}
        return found

    def open(self, name: str, choice: Choice | None, rates: Sequence[float], seconds: float) -> list[dict[str, Any]]:
        """Open loops, lowest rate first, each in the calm after the last.

        Raises:
            ServerError: the server does not start or makes another picture.
        """
        launch, found = self._launch(name, choice), []
        target = Target(self.name, "", PICTURE, launch.url, self._body)
        with running(launch):
            self._check(launch)
            for rate in rates:
                result = asyncio.run(load.open_loop(target, rate, seconds, ARRIVALS_SEED))
                found.append({"offered": rate, **_fields(result)})
                time.sleep(0.5)
        return found


def _fields(result: Result) -> dict[str, Any]:
    return {name: getattr(result, name) for name in FIELDS}
