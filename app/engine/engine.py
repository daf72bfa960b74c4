"""What HTTP sees of generation: submit a job and await its pictures, or stream its tokens, or give it up.

Knows jobs, workers and their state; knows no torch and no HTTP. All methods run on the event loop's thread.
"""

import asyncio
import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.admission import Admission
from app.engine.jobs import (
    Chunk,
    Kind,
    LatentJob,
    Logprob,
    ModelInfo,
    Part,
    Pictures,
    Runtime,
    SequenceJob,
    WorkerConfig,
)
from app.engine.link import Frame
from app.engine.stream import TokenStream
from app.engine.supervisor import Launch, Worker, WorkerProcess
from app.errors import ComputeFailed, Draining, ModelNotFound, NotReady, Overloaded, WorkerDied
from app.telemetry import Telemetry

FIRST_GUESS_TOKENS = 64  # of a sequence, until some have ended
LOAD_SECONDS = 5.0  # a guess for Retry-After while models are loaded

log = logging.getLogger("genserve.engine")


@dataclass(slots=True)
class _Pending:
    """A job between submission and answer."""

    job: LatentJob
    future: asyncio.Future[Pictures]
    lane: "_Lane"
    pictures: Pictures | None = None
    remaining: int = 0


@dataclass(slots=True)
class _Strand:
    """One sequence between submission and its last token."""

    job: SequenceJob
    lane: "_Lane"
    stream: TokenStream
    index: int
    submitted: float
    last: float | None = None


class _Lane:
    """One worker with what waits to be sent to it."""

    def __init__(self, worker: Worker, max_rows: int) -> None:
        self.worker = worker
        self.admission = Admission(max_rows)
        self.ready = False
        self.outbox: list[tuple[int, LatentJob | SequenceJob]] = []
        self.departed: list[int] = []
        self._unattributed: dict[str, float] = {}

    def learn_sequences(self, model: str, seconds: float, finished: int) -> None:
        """A sequence's cost is known when sequences end: the seconds since the last ones did, shared among them."""
        spent = self._unattributed.get(model, 0.0) + seconds
        if finished:
            self.admission.learn(model, spent / finished)
            spent = 0.0
        self._unattributed[model] = spent


class Engine:
    """One or several device workers behind one queue bound each.

    Attributes:
        models: what the workers serve (or failed to load) by name; empty until they are ready.
        runtime: device, torch build and threads of the workers; None until they are ready.
        failure: why the engine can't go on; None while all is well.
    """

    def __init__(
        self,
        configs: Sequence[WorkerConfig],
        *,
        max_queue: int,
        telemetry: Telemetry,
        on_failure: Callable[[], None],
        launch: Launch = WorkerProcess,
    ) -> None:
        """Prepare one worker a configuration; `on_failure` is called once when `failure` is set."""
        self.models: dict[str, ModelInfo] = {}
        self.runtime: Runtime | None = None
        self.failure: str | None = None
        self.draining = False
        self._telemetry = telemetry
        self._on_failure = on_failure
        self._launch = launch
        self._lanes = [_Lane(Worker(config, self._received, self._lost), max_queue) for config in configs]
        self._pending: dict[int, _Pending] = {}
        self._strands: dict[int, _Strand] = {}
        self._numbers = itertools.count(1)
        self._flush_due = False
        self._on_ready: list[Callable[[], None]] = []
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def ready(self) -> bool:
        """Whether work is taken: every worker is loaded and warmed up, none has died, and no drain has begun."""
        return not self.draining and self.failure is None and all(lane.ready for lane in self._lanes)

    @property
    def in_flight(self) -> int:
        """Jobs and sequences submitted and not yet answered."""
        return len(self._pending) + len(self._strands)

    def when_ready(self, callback: Callable[[], None]) -> None:
        """Call back once, when all workers are loaded and warmed up."""
        self._on_ready.append(callback)

    async def start(self) -> None:
        """Launch the workers; they load and warm up while the event loop goes on."""
        await asyncio.gather(*(lane.worker.start(self._launch) for lane in self._lanes))

    async def drain(self, seconds: float) -> bool:
        """Refuse new work and wait for what was admitted; what is not done in time fails, and False says so."""
        self.draining = True
        if not self.in_flight:  # `wait_for` with 0 seconds would not even look
            return True
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            log.warning("drain: %d jobs are unanswered after %.1f s", self.in_flight, seconds)
            self._fail_pending(self._lanes, Draining("the service is shutting down and did not get to this in time"))
            return False
        return True

    async def stop(self) -> None:
        """End the workers; what is still in flight fails."""
        self.draining = True
        await asyncio.gather(*(lane.worker.stop() for lane in self._lanes))
        self._fail_pending(self._lanes, Draining("the service stopped before this was computed"))

    def model(self, name: str | None, kind: Kind) -> ModelInfo:
        """The served model of that name, or the first of its kind when no name is given.

        Raises:
            NotReady, Draining, WorkerDied: the engine takes no work now.
            ModelNotFound: no such model, one of another kind, or one that could not be loaded.
        """
        self.check_open()
        served = (info for info in self.models.values() if info.error is None and info.kind == kind)
        info = next(served, None) if name is None else self.models.get(name)
        if info is not None and info.error is None and info.kind == kind:
            return info
        makes = {"latent": "pictures", "sequence": "text"}[kind]
        asked = "no model" if name is None else f"no model {name!r}"
        names = ", ".join(other.name for other in served) or "none"
        raise ModelNotFound(f"{asked} that makes {makes} is served ({names} is)", field="model")

    def check_open(self) -> None:
        """Raise unless work is taken now.

        Raises:
            NotReady, Draining, WorkerDied: the engine takes no work.
        """
        if self.failure is not None:
            raise WorkerDied(self.failure, retry_after=LOAD_SECONDS)
        if self.draining:
            raise Draining("the service is shutting down", retry_after=LOAD_SECONDS)
        if not self.ready:
            raise NotReady("the models are being loaded and warmed up", retry_after=LOAD_SECONDS)

    def submit(self, job: LatentJob) -> asyncio.Future[Pictures]:
        """Queue a job; the future gives its pictures, [n, H, W, C]. Cancel the future to give the job up.

        Raises:
            NotReady, Draining, WorkerDied: the engine takes no work now.
            Overloaded: the queue is full; nothing was queued.
        """
        lane = self._admit(job.model, job.rows)
        number = next(self._numbers)
        future = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: self._finish(number, done))
        self._pending[number] = _Pending(job, future, lane, remaining=job.rows)
        self._send_later(lane, number, job)
        return future

    def stream(self, jobs: Sequence[SequenceJob]) -> TokenStream:
        """Queue the sequences of one request, all of them or none; their tokens come as chunks.

        Raises:
            NotReady, Draining, WorkerDied: the engine takes no work now.
            Overloaded: the queue is full; nothing was queued.
        """
        lane = self._admit(jobs[0].model, len(jobs))
        numbers = [next(self._numbers) for _ in jobs]
        stream = TokenStream(
            len(jobs),
            lambda index: self._finish_strand(numbers[index], departed=True),
            self._telemetry.cancelled.labels(jobs[0].model).inc,
        )
        now = time.perf_counter()
        for index, (number, job) in enumerate(zip(numbers, jobs, strict=True)):
            own = dataclasses.replace(job, request=numbers[0])
            self._strands[number] = _Strand(own, lane, stream, index, now)
            self._send_later(lane, number, own)
        return stream

    def _admit(self, model: str, rows: int) -> _Lane:
        """Count rows in at the worker with the least to do."""
        self.check_open()
        lane = self._lanes[0]
        if len(self._lanes) > 1:
            lane = min(self._lanes, key=lambda lane: (lane.admission.backlog_seconds, lane.admission.rows))
        try:
            lane.admission.admit(model, rows)
        except Overloaded:
            self._telemetry.rejected.labels("queue_full").inc()
            raise
        self._telemetry.depth(model).inc(rows)
        self._idle.clear()
        return lane

    def _send_later(self, lane: _Lane, number: int, job: LatentJob | SequenceJob) -> None:
        lane.outbox.append((number, job))
        self._schedule_flush()

    def _finish(self, number: int, future: asyncio.Future[Pictures]) -> None:
        pending = self._pending.pop(number)
        departed = future.cancelled() or future.exception() is not None
        self._release(pending.lane, number, pending.job.model, pending.job.rows, departed=departed)
        if future.cancelled():
            self._telemetry.cancelled.labels(pending.job.model).inc()

    def _finish_strand(self, number: int, *, departed: bool) -> None:
        """Forget a sequence: over, failed, or given up."""
        if (strand := self._strands.pop(number, None)) is not None:
            self._release(strand.lane, number, strand.job.model, 1, departed=departed)

    def _release(self, lane: _Lane, number: int, model: str, rows: int, *, departed: bool) -> None:
        lane.admission.release(model, rows)
        self._telemetry.depth(model).dec(rows)
        if departed:
            lane.departed.append(number)
            self._schedule_flush()
        if not self.in_flight:
            self._idle.set()

    def _schedule_flush(self) -> None:
        """Everything that one turn of the event loop submits or gives up travels in one frame a worker."""
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        for lane in self._lanes:
            outbox, departed = lane.outbox, lane.departed
            lane.outbox, lane.departed = [], []
            outbox = [(number, job) for number, job in outbox if self._wanted(number)]
            jobs = [(number, job) for number, job in outbox if isinstance(job, LatentJob)]
            if jobs:
                header = {"type": "submit", "jobs": [(number, job.model) for number, job in jobs]}
                lane.worker.send(header, [a for _, job in jobs for a in (job.latents, job.labels)])
            sequences = [(number, dataclasses.asdict(job)) for number, job in outbox if isinstance(job, SequenceJob)]
            if sequences:
                lane.worker.send({"type": "sequences", "jobs": sequences})
            if departed:
                lane.worker.send({"type": "cancel", "jobs": departed})

    def _wanted(self, number: int) -> bool:
        """Whether somebody still waits for this job."""
        pending = self._pending.get(number)
        return number in self._strands or (pending is not None and not pending.future.done())

    def _received(self, worker: Worker, frame: Frame) -> None:
        lane = next(lane for lane in self._lanes if lane.worker is worker)
        match frame.type:
            case "batch":
                self._take_batch(lane, frame.header, frame.arrays[0])
            case "chunks":
                self._take_chunks(lane, frame.header)
            case "slots":
                self._telemetry.slots_busy.labels(frame.header["model"]).set(frame.header["busy"])
            case "ready":
                self._take_ready(lane, frame.header)
            case "failed":
                self._fail(frame.header["error"])

    def _take_ready(self, lane: _Lane, header: Mapping[str, Any]) -> None:
        models = [_model_info(raw) for raw in header["models"]]
        for model in models:  # served only if every worker could load it
            if (known := self.models.get(model.name)) is None or known.error is None:
                self.models[model.name] = model
        self.runtime = Runtime(**header["runtime"])
        lane.ready = True
        for model in models:
            if model.seconds:
                steps = FIRST_GUESS_TOKENS if model.kind == "sequence" else 1
                lane.admission.learn(model.name, model.seconds[-1] * steps / model.buckets[-1])
        if all(lane.ready for lane in self._lanes):
            for callback in self._on_ready:
                callback()

    def _take_batch(self, lane: _Lane, header: Mapping[str, Any], pictures: NDArray[np.uint8]) -> None:
        model, seconds, rows = header["model"], header["seconds"], header["rows"]
        lane.admission.learn(model, seconds / rows)
        meters, start = self._telemetry.pictures(model), 0
        meters.compute.observe(seconds)
        meters.batch_size.observe(rows)
        meters.padding.inc(header["padding"])
        meters.images.inc(len(pictures))
        for raw, waited in zip(header["parts"], header["waited"], strict=True):
            part = Part(*raw)
            meters.queue.observe(waited)
            count = 0 if part.error else part.count
            if (pending := self._pending.get(part.job)) is not None and not pending.future.done():
                _take_part(pending, part, pictures[start : start + count])
            start += count

    def _take_chunks(self, lane: _Lane, header: Mapping[str, Any]) -> None:
        model, now, telemetry = header["model"], time.perf_counter(), self._telemetry
        telemetry.compute.labels(model).observe(header["seconds"])
        telemetry.slots_busy.labels(model).set(header["busy"])
        telemetry.tokens.labels(model, "prompt").inc(header["prefills"])
        if header["rows"]:
            telemetry.batch_size.labels(model).observe(header["rows"])
        for waited in header["waited"]:
            telemetry.queue.labels(model).observe(waited)
        chunks = [_chunk(raw) for raw in header["chunks"]]
        lane.learn_sequences(model, header["seconds"], sum(chunk.finish is not None for chunk in chunks))
        for chunk in chunks:
            if (strand := self._strands.get(chunk.job)) is not None:
                self._take_chunk(strand, chunk, now)

    def _take_chunk(self, strand: _Strand, chunk: Chunk, now: float) -> None:
        model = strand.job.model
        if chunk.tokens:
            self._telemetry.tokens.labels(model, "completion").inc(len(chunk.tokens))
            if strand.last is None:
                self._telemetry.time_to_first_token.labels(model).observe(now - strand.submitted)
            else:
                self._telemetry.inter_token.labels(model).observe((now - strand.last) / len(chunk.tokens))
            strand.last = now
        strand.stream.put(strand.index, chunk)
        if chunk.finish is not None or chunk.error is not None:
            self._finish_strand(chunk.job, departed=False)

    def _lost(self, worker: Worker) -> None:
        self._fail(f"the device worker (pid {worker.pid}) ended unexpectedly")

    def _fail(self, reason: str) -> None:
        if self.failure is None:
            self.failure = reason
            self._fail_pending(self._lanes, WorkerDied(reason, retry_after=LOAD_SECONDS))
            self._on_failure()

    def _fail_pending(self, lanes: Sequence[_Lane], error: Exception) -> None:
        for pending in list(self._pending.values()):
            if pending.lane in lanes and not pending.future.done():
                pending.future.set_exception(error)
        for number, strand in list(self._strands.items()):
            if strand.lane in lanes:
                strand.stream.fail(error)
                self._finish_strand(number, departed=False)


def _model_info(raw: Mapping[str, Any]) -> ModelInfo:
    """A description as it came over the link, where tuples have become lists."""
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
    return ModelInfo(**fields)


def _chunk(raw: Sequence[Any]) -> Chunk:
    """A chunk as it came over the link."""
    job, tokens, logprobs, finish, error = raw
    scored = tuple(Logprob(logprob, tuple((token, value) for token, value in top)) for logprob, top in logprobs)
    return Chunk(job, tuple(tokens), scored, finish, error)


def _take_part(pending: _Pending, part: Part, pictures: NDArray[np.uint8]) -> None:
    """Put finished rows where they belong; the job is done with its last row, or failed with its first bad one."""
    if part.error is not None:
        pending.future.set_exception(ComputeFailed(part.error))
        return
    if part.count == pending.job.rows:
        pending.future.set_result(pictures)
        return
    if pending.pictures is None:
        pending.pictures = np.empty((pending.job.rows, *pictures.shape[1:]), np.uint8)
    pending.pictures[part.offset : part.offset + part.count] = pictures
    pending.remaining -= part.count
    if pending.remaining == 0:
        pending.future.set_result(pending.pictures)


def worker_configs(base: WorkerConfig, devices: Sequence[str], cores: int) -> list[WorkerConfig]:
    """One configuration a device; CPU workers share the cores, unless threads are given."""
    share = base.threads or max(1, cores // max(1, len(devices)))
    return [dataclasses.replace(base, device=device, threads=share) for device in devices]
