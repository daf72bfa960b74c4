"""What HTTP sees of generation: submit a job and await its pictures, or stream its tokens, or give it up.

Knows jobs, lanes and deadlines; knows no torch and no HTTP. All methods run on the event loop's thread.
"""

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import partial
from typing import Any

from app.engine.admission import Place
from app.engine.flight import Flight, Picture, Strand
from app.engine.jobs import (
    MAKES,
    Chunk,
    LatentJob,
    Logprob,
    ModelInfo,
    Part,
    Rows,
    Runtime,
    SequenceJob,
    Task,
    WorkerConfig,
)
from app.engine.keeper import Keeper, Patience
from app.engine.lane import Lane
from app.engine.link import Frame
from app.engine.reception import Reception
from app.engine.stream import TokenStream
from app.engine.supervisor import Launch, WorkerProcess
from app.engine.terms import Terms
from app.errors import (
    ComputeFailed,
    DeadlineExceeded,
    Draining,
    GenserveError,
    KillsWorker,
    ModelNotFound,
    NotReady,
    WorkerDied,
)
from app.telemetry import Telemetry

LOAD_SECONDS = 5.0  # a guess for Retry-After while models are loaded

log = logging.getLogger("genserve.engine")


class Engine:
    """One or several device workers with a queue bound each.

    Attributes:
        models: what the workers serve (or failed to load) by name; empty until they are ready.
        runtime: device, torch build and threads of the workers; None until they are ready.
        failure: why the engine can't go on; None while all is well.
        begun: every worker has been ready once.
        computed: when a worker last sent something that it had computed, by `time.monotonic`.
    """

    def __init__(
        self,
        configs: Sequence[WorkerConfig],
        *,
        max_queue: int,
        telemetry: Telemetry,
        on_failure: Callable[[], None],
        launch: Launch = WorkerProcess,
        patience: Patience | None = None,
    ) -> None:
        """Prepare one worker a configuration; `on_failure` is called once when `failure` is set."""
        self.models: dict[str, ModelInfo] = {}
        self.runtime: Runtime | None = None
        self.failure: str | None = None
        self.draining = False
        self.computed = 0.0
        self._telemetry = telemetry
        self._on_failure = on_failure
        self._lanes = [
            Lane(str(index), self._keeper(config, patience or Patience(), launch), max_queue)
            for index, config in enumerate(configs)
        ]
        for lane in self._lanes:
            telemetry.queue_seconds.labels(lane.name).set_function(partial(_backlog, lane))
        self._flights: dict[int, Flight] = {}
        self._numbers = itertools.count(1)
        self._reception = Reception(self._lanes, telemetry)
        self._flush_due = False
        self._on_ready: list[Callable[[], None]] = []
        self.begun = False
        self._closed = False  # not even a further stage is taken
        self._held = 0  # requests of several stages
        self._idle = asyncio.Event()
        self._idle.set()

    def _keeper(self, config: WorkerConfig, patience: Patience, launch: Launch) -> Keeper:
        return Keeper(
            config, patience, launch, on_frame=self._received, on_crash=self._crashed, on_given_up=self._given_up
        )

    @property
    def ready(self) -> bool:
        """Whether work is taken: all was loaded and warmed up, some worker runs, and no drain has begun."""
        return self.begun and not self.draining and self.failure is None and any(lane.open for lane in self._lanes)

    @property
    def restarting(self) -> bool:
        """Whether work was taken before and waits for a worker to come back."""
        return self.begun and not self.draining and self.failure is None and not self.ready

    @property
    def in_flight(self) -> int:
        """Jobs and sequences submitted and not yet answered."""
        return len(self._flights)

    def when_ready(self, callback: Callable[[], None]) -> None:
        """Call back once, when all workers are loaded and warmed up for the first time."""
        self._on_ready.append(callback)

    async def start(self) -> None:
        """Launch the workers; they load and warm up while the event loop goes on."""
        await asyncio.gather(*(lane.keeper.start() for lane in self._lanes))

    async def drain(self, seconds: float) -> bool:
        """Refuse new work and wait for what was admitted; what is not done in time fails, and False says so."""
        self.draining = True
        if self._idle.is_set():  # `wait_for` with 0 seconds would not even look
            return True
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            log.warning("drain: %d jobs are unanswered after %.1f s", self.in_flight, seconds)
            self._close(Draining("the service is shutting down and did not get to this in time"))
            return False
        return True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While a request of several stages is computed: a drain waits for it between them, too."""
        self._held += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._held -= 1
            self._settle()

    def abandon(self) -> None:
        """Fail at once what is in flight: there is no time to compute it."""
        self._close(Draining("the service was told to stop at once"))

    async def stop(self) -> None:
        """End the workers; what is still in flight fails."""
        self.draining = True
        await asyncio.gather(*(lane.keeper.stop() for lane in self._lanes))
        self._close(Draining("the service stopped before this was computed"))

    def _close(self, error: GenserveError) -> None:
        """Fail what is in flight, and take nothing any more."""
        self.draining = self._closed = True
        self._fail_all(error)

    def model(self, name: str | None, *tasks: Task) -> ModelInfo:
        """The served model of that name and one of these tasks; without a name, the first that has the first of them.

        Where no model has the first task, it is the first that has the second, and so on.

        Raises:
            NotReady, Draining, WorkerDied: the engine takes no work now.
            ModelNotFound: no such model, one of another task, or one that could not be loaded.
        """
        self.check_open()
        served = [info for info in self.models.values() if info.error is None and info.task in tasks]
        wanted = served if name is None else [info for info in served if info.name == name]
        if wanted:
            return min(wanted, key=lambda info: tasks.index(info.task))
        asked = "no model" if name is None else f"no model {name!r}"
        names = ", ".join(info.name for info in served) or "none"
        makes = " or ".join(MAKES[task] for task in tasks)
        raise ModelNotFound(f"{asked} that makes {makes} is served (served: {names})", field="model")

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
            what = "the worker is being restarted" if self.begun else "the models are being loaded and warmed up"
            raise NotReady(what, retry_after=LOAD_SECONDS)

    def submit(self, job: LatentJob, terms: Terms = Terms()) -> asyncio.Future[Rows]:  # noqa: B008  # frozen
        """Queue a job; the future gives its pictures [n, H, W, C], or latents. Cancel it to give the job up.

        A further stage of an admitted request is taken while others are refused, and waits for a worker that comes
        back. It fails with ComputeFailed, KillsWorker, DeadlineExceeded, WorkerDied or Draining.

        Raises:
            NotReady, Draining, WorkerDied: the engine takes no work now.
            Overloaded: the queue is full, or the predicted wait too long; nothing was queued.
            KillsWorker: the same request has ended a worker a short while ago.
        """
        self._check_terms(terms)
        lane, place = self._reception.lane_for_pictures(job, terms)
        number, loop = next(self._numbers), asyncio.get_running_loop()
        future: asyncio.Future[Rows] = loop.create_future()
        timer = loop.call_later(terms.seconds, self._expire_picture, number)
        deadline = time.monotonic() + terms.seconds
        self._flights[number] = Picture(lane, place, terms, deadline, timer, job, future, job.rows)
        future.add_done_callback(lambda done: self._finish_picture(number, done))
        self._enter(lane, place, number)
        return future

    def stream(self, jobs: Sequence[SequenceJob], terms: Terms = Terms()) -> TokenStream:  # noqa: B008
        """Queue the sequences of one request, all of them or none; their tokens come as chunks.

        Raises:
            NotReady, Draining, WorkerDied: the engine takes no work now.
            Overloaded: the queue is full, or the predicted wait too long; nothing was queued.
            KillsWorker: the same request has ended a worker a short while ago.
        """
        self._check_terms(terms)
        lane = self._reception.lane_for_sequences(jobs, terms)
        numbers = [next(self._numbers) for _ in jobs]
        stream = TokenStream(
            len(jobs),
            lambda index: self._finish(numbers[index], departed=True),
            self._telemetry.cancelled.labels(jobs[0].model).inc,
        )
        timer = asyncio.get_running_loop().call_later(terms.seconds, self._expire_stream, numbers)
        # What has begun to stream has all the time that it wants, and its other sequences with it.
        deadline, now = time.monotonic() + terms.seconds if terms.whole else math.inf, time.perf_counter()
        for index, (number, job) in enumerate(zip(numbers, jobs, strict=True)):
            own = dataclasses.replace(job, request=numbers[0], client=terms.client, deadline=deadline)
            place = Place(job.model, terms.client, 1, max(1, job.outputs))
            self._flights[number] = Strand(lane, place, terms, timer, numbers, own, stream, index, now)
            self._enter(lane, place, number)
        return stream

    def _check_terms(self, terms: Terms) -> None:
        """Raise unless a request is taken, or a further stage of it is.

        Raises:
            NotReady, Draining, WorkerDied: the engine takes no work now.
            KillsWorker: the same request has ended a worker a short while ago.
        """
        if not terms.admitted:
            self.check_open()
        elif self.failure is not None:
            raise WorkerDied(self.failure, retry_after=LOAD_SECONDS)
        elif self._closed:
            raise Draining("the service is shutting down", retry_after=LOAD_SECONDS)
        self._reception.check(terms)

    def _enter(self, lane: Lane, place: Place, number: int) -> None:
        """Count a job in; it is sent, or waits where the lane is closed."""
        lane.admission.enter(place)
        self._telemetry.depth(place.model).inc(place.rows)
        self._idle.clear()
        self._pass_on(lane, number)

    def _pass_on(self, lane: Lane, number: int) -> None:
        """Have a job sent, now or when the lane opens."""
        if lane.open:
            self._send_later(lane, number)
        else:
            lane.wait(number)

    def _finish_picture(self, number: int, future: asyncio.Future[Rows]) -> None:
        departed = future.cancelled() or future.exception() is not None
        flight = self._flights.get(number)
        if flight is not None and future.cancelled():
            self._telemetry.cancelled.labels(flight.place.model).inc()
        self._finish(number, departed=departed)

    def _finish(self, number: int, *, departed: bool) -> None:
        """Forget a job: over, failed, or given up."""
        flight = self._flights.pop(number, None)
        if flight is None:
            return
        lane, place = flight.lane, flight.place
        lane.admission.leave(place)
        self._telemetry.depth(place.model).dec(place.rows)
        if isinstance(flight, Picture) or not any(other in self._flights for other in flight.siblings):
            flight.timer.cancel()
        if departed:
            lane.departed.append(number)
            self._schedule_flush()
        if lane.trial.ended(number):
            self._try_next(lane)
        self._settle()

    def _settle(self) -> None:
        """Tell a drain when nothing is left."""
        if not self._flights and not self._held:
            self._idle.set()

    def _expire_picture(self, number: int) -> None:
        flight = self._flights.get(number)
        if isinstance(flight, Picture) and not flight.future.done():
            self._telemetry.expired.labels(flight.place.model).inc()
            flight.future.set_exception(_late(flight.terms))

    def _expire_stream(self, numbers: Sequence[int]) -> None:
        """A request's time is over: it fails, unless it streams and has begun."""
        strands = [flight for number in numbers if isinstance(flight := self._flights.get(number), Strand)]
        if not strands or (not strands[0].terms.whole and strands[0].stream.begun):
            return
        self._telemetry.expired.labels(strands[0].place.model).inc()
        self._fail(numbers[strands[0].index], _late(strands[0].terms))

    def _fail(self, number: int, error: GenserveError) -> None:
        """Fail the request of a job; all its sequences, if it is one of several."""
        flight = self._flights.get(number)
        if isinstance(flight, Strand):
            flight.stream.fail(error)
            for other in flight.siblings:
                self._finish(other, departed=True)
        elif flight is not None and not flight.future.done():
            flight.future.set_exception(error)

    def _fail_all(self, error: GenserveError) -> None:
        for number in list(self._flights):
            self._fail(number, error)

    def _send_later(self, lane: Lane, number: int) -> None:
        lane.outbox.append(number)
        self._schedule_flush()

    def _schedule_flush(self) -> None:
        """Everything that one turn of the event loop submits or gives up travels in one frame a worker."""
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        for lane in self._lanes:
            for number in lane.flush(self._flights):
                self._fail(number, ComputeFailed("it is too large to be sent to the worker"))

    def _lane_of(self, keeper: Keeper) -> Lane:
        return next(lane for lane in self._lanes if lane.keeper is keeper)

    def _received(self, keeper: Keeper, frame: Frame) -> None:
        lane = self._lane_of(keeper)
        match frame.type:
            case "batch":
                self._take_batch(lane, frame.header, frame.arrays[0])
            case "chunks":
                self._take_chunks(frame.header)
            case "slots":
                self._telemetry.slots_busy.labels(frame.header["model"]).set(frame.header["busy"])
            case "limit":
                self._telemetry.batch_limit.labels(frame.header["model"]).set(frame.header["rows"])
            case "ready":
                self._take_ready(lane, frame.header)

    def _take_ready(self, lane: Lane, header: Mapping[str, Any]) -> None:
        models = [_model_info(raw) for raw in header["models"]]
        for model in models:  # served only if every worker could load it
            if (known := self.models.get(model.name)) is None or known.error is None:
                self.models[model.name] = model
            if model.seconds:
                lane.admission.serve(model)
        self.runtime = Runtime(**header["runtime"])
        self.computed = time.monotonic()  # the warm-up
        lane.loaded = True
        self._try_next(lane)
        if not self.begun and all(lane.loaded for lane in self._lanes):
            self.begun = True
            for callback in self._on_ready:
                callback()

    def _take_batch(self, lane: Lane, header: Mapping[str, Any], made: Rows) -> None:
        model, seconds, rows = header["model"], header["seconds"], header["rows"]
        self.computed = time.monotonic()
        lane.admission.learn_batch(model, header["work"], seconds)
        meters, start = self._telemetry.pictures(model), 0
        meters.compute.observe(seconds)
        meters.batch_size.observe(rows)
        meters.padding.inc(header["padding"])
        meters.images.inc(len(made))
        for raw, waited in zip(header["parts"], header["waited"], strict=True):
            part = Part(*raw)
            meters.queue.observe(waited)
            count = 0 if part.error else part.count
            flight = self._flights.get(part.job)
            if isinstance(flight, Picture) and not flight.future.done():
                flight.take(part, made[start : start + count])
            start += count

    def _take_chunks(self, header: Mapping[str, Any]) -> None:
        model, now, telemetry = header["model"], time.perf_counter(), self._telemetry
        self.computed = time.monotonic()
        telemetry.compute.labels(model).observe(header["seconds"])
        telemetry.slots_busy.labels(model).set(header["busy"])
        telemetry.tokens.labels(model, "prompt").inc(header["prefills"])
        telemetry.tokens.labels(model, "reused").inc(header["reused"])
        if header["rows"]:
            telemetry.batch_size.labels(model).observe(header["rows"])
        for waited in header["waited"]:
            telemetry.queue.labels(model).observe(waited)
        for raw in header["chunks"]:
            chunk = _chunk(raw)
            if isinstance(strand := self._flights.get(chunk.job), Strand):
                self._take_chunk(strand, chunk, now)

    def _take_chunk(self, strand: Strand, chunk: Chunk, now: float) -> None:
        model = strand.place.model
        if (fresh := strand.take(chunk)) is None:  # an earlier run has given these tokens
            return
        if fresh.tokens:
            self._telemetry.tokens.labels(model, "completion").inc(len(fresh.tokens))
            if strand.last is None:
                strand.first = now
                self._telemetry.time_to_first_token.labels(model).observe(now - strand.submitted)
            else:
                self._telemetry.inter_token.labels(model).observe((now - strand.last) / len(fresh.tokens))
            strand.last = now
        strand.stream.put(strand.index, fresh)
        if fresh.finish is not None or fresh.error is not None:
            if fresh.finish is not None and strand.first not in (None, strand.last):  # of one chunk nothing is known
                strand.lane.admission.learn_sequence(model, strand.place.tokens, now - strand.first)
            self._finish(chunk.job, departed=False)
        elif strand.lane.trial.passed(chunk.job):  # it has come further than when the worker ended
            self._try_next(strand.lane)

    def _crashed(self, keeper: Keeper, running: Set[int], reason: str) -> None:
        """Sort what the worker held: streams that had begun fail, what it computed is tried alone, the rest waits."""
        lane = self._lane_of(keeper)
        log.error("%s; it was computing %d of %d jobs", reason, len(running), len(self._flights))
        lane.loaded = lane.open = False
        self._telemetry.worker_restarts.labels(lane.name).inc()
        self._convict(lane, running)
        held = [number for number, flight in self._flights.items() if flight.lane is lane]
        for number in held:
            flight = self._flights.get(number)
            if isinstance(flight, Strand) and not flight.terms.whole and flight.stream.begun:
                self._fail(number, WorkerDied(f"{reason} while it wrote this"))
            elif flight is not None:
                flight.restart()
        lane.restart(running, [number for number in held if number in self._flights])
        if any(other.open for other in self._lanes):
            self._move_waiting(lane)

    def _convict(self, lane: Lane, running: Set[int]) -> None:
        """The one job that ran alone when the worker ended is what ended it."""
        if (digest := lane.trial.verdict(running)) is None:
            return
        lane.keeper.forgive()
        self._reception.blame.put(digest)
        (number,) = running
        log.error("job %d ends the worker alone; it is refused", number)
        self._fail(number, KillsWorker("this request ended the device worker, twice, the second time alone"))

    def _move_waiting(self, lane: Lane) -> None:
        """What merely waited goes to the other workers, to those that run if there are any."""
        others = [other for other in self._lanes if other is not lane and not other.keeper.gave_up]
        for number in lane.take_waiting():
            if (flight := self._flights.get(number)) is None:
                continue
            target = min([other for other in others if other.open] or others, key=lambda other: other.admission.rows)
            lane.admission.leave(flight.place)
            target.admission.enter(flight.place)
            flight.lane = target
            self._pass_on(target, number)

    def _try_next(self, lane: Lane) -> None:
        """Run the next suspect of a fresh worker alone; after the last one, open the lane."""
        if not lane.loaded:
            return
        while (number := lane.trial.next()) is not None:
            if (flight := self._flights.get(number)) is not None and flight.lane is lane:
                lane.trial.begin(number, flight.terms.digest())
                self._send_later(lane, number)
                return
        if lane.trial.running is None:
            lane.trial.close()
            lane.admission.resume()
            lane.open = True
            for number in lane.take_waiting():
                if number in self._flights:
                    self._send_later(lane, number)
            for other in self._lanes:
                if not other.open:
                    self._move_waiting(other)

    def _given_up(self, keeper: Keeper, reason: str) -> None:
        """A lane is lost for good; with the last one, the engine is."""
        lane = self._lane_of(keeper)
        if self.begun and any(not other.keeper.gave_up for other in self._lanes):
            log.error("%s; the other workers go on without it", reason)
            self._move_waiting(lane)
            for number in [number for number, flight in self._flights.items() if flight.lane is lane]:
                self._fail(number, WorkerDied(reason, retry_after=LOAD_SECONDS))
            return
        if self.failure is None:
            self.failure = reason
            self._fail_all(WorkerDied(reason, retry_after=LOAD_SECONDS))
            self._on_failure()


def _backlog(lane: Lane) -> float:
    return lane.admission.backlog_seconds


def _late(terms: Terms) -> DeadlineExceeded:
    what = "the answer" if terms.whole else "the beginning"
    return DeadlineExceeded(f"{what} was not there in {terms.given:g} s")


def _model_info(raw: Mapping[str, Any]) -> ModelInfo:
    """A description as it came over the link, where tuples have become lists."""
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
    return ModelInfo(**fields)


def _chunk(raw: Sequence[Any]) -> Chunk:
    """A chunk as it came over the link."""
    job, tokens, logprobs, finish, error, refused, busy = raw
    scored = tuple(Logprob(logprob, tuple((token, value) for token, value in top)) for logprob, top in logprobs)
    return Chunk(job, tuple(tokens), scored, finish, error, refused, busy)


def worker_configs(base: WorkerConfig, devices: Sequence[str], cores: int) -> list[WorkerConfig]:
    """One configuration a device; CPU workers share the cores, unless threads are given."""
    share = base.threads or max(1, cores // max(1, len(devices)))
    return [dataclasses.replace(base, device=device, threads=share) for device in devices]
