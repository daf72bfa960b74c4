"""Keeps one device's worker running: watches it, ends it when it hangs, starts another when it is gone.

Knows processes, heartbeats and patience; what the worker computes is the engine's business.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from app.engine.jobs import WorkerConfig
from app.engine.link import Frame
from app.engine.supervisor import Launch, Worker

STABLE_SECONDS = 60.0  # of service after a crash, and the next one counts as the first again
FIRST_PAUSE = 0.5  # before the second start in a row; each further pause is twice the last
LONGEST_PAUSE = 30.0
TIMES_SLOWEST = 10  # a batch may take so many times what its largest size took at warm-up, whatever the setting
LISTENS = 4  # pings in the time that a worker may be silent
LOAD_SECONDS = 900.0  # for loading and warming up
EXIT_SECONDS = 1.0  # between the end of its link and its own, so that its status can be told

log = logging.getLogger("genserve.keeper")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a worker may be silent, and how often it may end.

    Attributes:
        silence: seconds that a batch may take, or that the worker may say nothing.
        restarts: crashes in a row before its keeper gives up.
    """

    silence: float = 30.0
    restarts: int = 5


class Keeper:
    """One device, and the worker that runs on it now.

    `on_frame(keeper, frame)` is called for each frame of the running worker; `on_crash(keeper, running, reason)` when
    it is gone, with the numbers of the jobs that it was computing; `on_given_up(keeper, reason)` when there will be no
    other.
    """

    def __init__(
        self,
        config: WorkerConfig,
        patience: Patience,
        launch: Launch,
        *,
        on_frame: Callable[["Keeper", Frame], None],
        on_crash: Callable[["Keeper", Set[int], str], None],
        on_given_up: Callable[["Keeper", str], None],
    ) -> None:
        self.config = config
        self.gave_up = False
        self._patience = patience
        self._launch = launch
        self._on_frame, self._on_crash, self._on_given_up = on_frame, on_crash, on_given_up
        self._worker: Worker | None = None
        self._task: asyncio.Task[None] | None = None  # watches, or recovers
        self._stopping = False
        self._served_before = False
        self._ready_since: float | None = None
        self._crashes = 0
        self._refusal: str | None = None
        self._limit = patience.silence
        self._heard = self._oldest = 0.0

    async def start(self) -> None:
        """Launch a worker; it answers with a frame when it is loaded."""
        self._ready_since, self._refusal, self._limit = None, None, self._patience.silence
        self._worker = worker = Worker(self.config, self._frame, self._lost)
        await worker.start(self._launch)
        self._task = asyncio.create_task(self._limit_loading(worker))

    async def stop(self) -> None:
        """End the worker for good."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
        if self._worker is not None:
            await self._worker.stop()

    def send(self, header: Mapping[str, Any], arrays: Sequence[NDArray[Any]] = ()) -> None:
        """Send a frame; quietly dropped while no worker runs."""
        if self._worker is not None:
            self._worker.send(header, arrays)

    def forgive(self) -> None:
        """The last crash was a request's fault, not the worker's."""
        self._crashes = 0

    def _frame(self, worker: Worker, frame: Frame) -> None:
        if worker is not self._worker:
            return
        self._heard = time.monotonic()
        if frame.type == "pong":
            self._oldest = frame.header["oldest"]
            return
        if frame.type == "failed":
            self._refusal = frame.header["error"]
            return
        if frame.type == "ready":
            self._begin_watch(worker, frame.header["models"])
        self._on_frame(self, frame)

    def _begin_watch(self, worker: Worker, models: Sequence[Mapping[str, Any]]) -> None:
        self._ready_since, self._served_before = time.monotonic(), True
        times = [seconds for model in models for seconds in (*model["seconds"], *model["encode_seconds"])]
        slowest = max(times, default=0.0)
        self._limit = max(self._patience.silence, TIMES_SLOWEST * slowest)
        assert self._task is not None
        self._task.cancel()
        self._task = asyncio.create_task(self._watch(worker))

    async def _limit_loading(self, worker: Worker) -> None:
        await asyncio.sleep(LOAD_SECONDS)
        self._end(worker, f"it did not load in {LOAD_SECONDS:.0f} s")

    async def _watch(self, worker: Worker) -> None:
        """Ask now and then; a worker that hangs in a batch says so, one that hangs altogether says nothing."""
        period, self._oldest = self._limit / LISTENS, 0.0
        while True:
            asked = time.monotonic()
            worker.send({"type": "ping", "id": 0})
            await asyncio.sleep(period)
            now = time.monotonic()
            if now - asked > 2 * period:  # it is this process that was held up: the answer may lie unread
                self._heard = now
            elif now - self._heard > self._limit:
                self._end(worker, f"it has said nothing for {now - self._heard:.1f} s")
                return
            elif self._oldest > self._limit:
                self._end(worker, f"it has computed one batch for {self._oldest:.1f} s")
                return

    def _end(self, worker: Worker, why: str) -> None:
        log.error("the worker of %s (pid %s) hangs: %s; ending it", self.config.device, worker.pid, why)
        self._recover_from(worker, f"hung: {why}")

    def _lost(self, worker: Worker) -> None:
        if worker is self._worker and not self._stopping:
            self._recover_from(worker, "")

    def _recover_from(self, worker: Worker, why: str) -> None:
        if self._task is not None:
            self._task.cancel()
        self._worker = None
        self._task = asyncio.create_task(self._recover(worker, why))

    async def _recover(self, worker: Worker, why: str) -> None:
        """Make sure that it is gone, tell of it, and start another after a pause."""
        status, running = await worker.end(grace=0.0 if why else EXIT_SECONDS)
        if self._refusal is not None and not self._served_before:
            self._give_up(self._refusal)
            return
        ended = f"the worker of {self.config.device} (pid {worker.pid}) {why or _ended(status)}"
        reason = self._refusal or ended
        stable = self._ready_since is not None and time.monotonic() - self._ready_since > STABLE_SECONDS
        self._crashes = 1 if stable else self._crashes + 1
        self._on_crash(self, running, reason)
        if self._crashes > self._patience.restarts:
            self._give_up(f"{reason}; {self._crashes} crashes in a row")
            return
        pause = 0.0 if self._crashes <= 1 else min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self._crashes - 2))
        log.warning("%s; starting another in %.1f s", reason, pause)
        await asyncio.sleep(pause)
        try:
            await self.start()
        except OSError as error:  # no process, no descriptors, no memory
            assert self._worker is not None
            self._recover_from(self._worker, f"could not be started: {error}")

    def _give_up(self, reason: str) -> None:
        self.gave_up = True
        self._on_given_up(self, reason)


def _ended(status: int | None) -> str:
    if status is None:
        return "can't be ended"
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
