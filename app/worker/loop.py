"""The device worker's loop: frames in, ticks of the lanes, frames out.

Knows sockets, frames and threads. One thread at a time leads: it reads the socket, blocking while there is nothing to
do, so that an idle worker uses no CPU. When it finds work it lets another lead and computes (leader and followers,
Schmidt et al. 2000): a lone request is read, computed and answered by one thread, a crowd is computed by all of them.
"""

import contextlib
import dataclasses
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from app import heap
from app.engine.jobs import Condition, Grammar, LatentJob, RefineJob, Sampling, SequenceJob, WorkerConfig
from app.engine.link import Frame, FrameReader, pack
from app.engine.marks import Marks
from app.worker import registry
from app.worker.continuous import ContinuousBatcher
from app.worker.dispatch import Dispatcher, Mark, Result, Tick, unmarked
from app.worker.dynamic import DynamicBatcher
from app.worker.faults import UNUSABLE, DeviceLost, RegistryError
from app.worker.lanes import Lane
from app.worker.refining import RefiningBatcher

CHUNK = 1 << 20

log = logging.getLogger("genserve.worker")


class WorkerLoop:
    """One end of a socket pair and the lanes behind it."""

    def __init__(
        self, sock: socket.socket, marks: Marks | None = None, abort: Callable[[int], object] | None = None
    ) -> None:
        """Take over a connected stream socket; `run` closes it.

        Args:
            sock: the link to the HTTP side.
            marks: where each thread says which jobs it computes.
            abort: ends this process, with a status, when the device is lost: the other threads may hang in calls to it,
                and nothing can be tidied up. Without it, the loop ends as soon as they do.
        """
        self._sock = sock
        self._marks = marks
        self._abort = abort
        self._reader = FrameReader()
        self._lanes: dict[str, Lane] = {}
        self._dispatcher = Dispatcher({})
        self._leader = threading.Lock()  # held by the thread that reads the socket
        self._state = threading.Lock()  # guards lanes, dispatcher and what is written to the socket; held for moments
        self._open = True
        self._woken, self._waker = socket.socketpair()  # a byte in it: a lane has something to do that came by no frame
        self._waker.setblocking(False)
        self._status = 0
        self._since: list[float] = []  # of each thread: when its tick began; 0.0 while it computes none

    def run(self) -> int:
        """Load what the first frame asks for, then serve until the other side closes; the exit status."""
        with self._sock, self._woken, self._waker:
            try:
                return self._run()
            except (BrokenPipeError, ConnectionResetError):  # the other side is gone, and so is our purpose
                return 0

    def _run(self) -> int:
        config = self._receive_config()
        if config is None:
            return 0
        try:
            loaded = registry.load(config, self._interrupted)
        except RegistryError as error:
            self._send({"type": "failed", "error": str(error)})
            return 1
        except DeviceLost as error:
            self._send({"type": "failed", "error": f"the device is unusable: {error}"})
            self._lose_device()
            return self._status
        self._lanes, self._dispatcher = loaded.lanes, Dispatcher(loaded.lanes)
        writers = [lane for lane in loaded.lanes.values() if isinstance(lane, ContinuousBatcher)]
        for lane in writers:
            lane.wake = self._wake
        heap.settle()
        models = [dataclasses.asdict(model) for model in loaded.models]
        self._send({"type": "ready", "models": models, "runtime": dataclasses.asdict(loaded.runtime)})
        for lane in writers:
            lane.warm_up()
        self._serve(loaded.threads)
        for lane in writers:
            lane.close()
        return self._status

    def _receive_config(self) -> WorkerConfig | None:
        while data := self._sock.recv(CHUNK):
            for frame in self._reader.feed(data):
                raw = dict(frame.header["config"])
                return WorkerConfig(**{**raw, "models": tuple(raw["models"])})
        return None

    def _serve(self, threads: int) -> None:
        self._since = [0.0] * threads
        places = range(1, threads)
        followers = [threading.Thread(target=self._work, name=f"compute-{i}", args=(i,)) for i in places]
        for follower in followers:
            follower.start()
        self._work(0)
        for follower in followers:
            follower.join()

    def _work(self, place: int) -> None:
        """What every thread does until the link is closed; a bug in one ends them all, and with them the process."""
        tick: Tick | None = None
        try:
            while (tick := tick or self._lead()) is not None:
                tick = self._finish(tick, self._compute(place, tick))
        except (BrokenPipeError, ConnectionResetError):
            pass
        except DeviceLost:
            self._lose_device()
        except Exception:
            log.exception("the worker's loop failed")
            self._status = 1
        finally:
            self._open = False
            with contextlib.suppress(OSError):  # closed already
                self._sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that leads

    def _compute(self, place: int, tick: Tick) -> Result:
        """Run a tick between its marks; one that raises leaves them, for its jobs were being computed at the end."""
        mark: Mark = unmarked if self._marks is None else partial(self._marks.begin, place)
        self._since[place] = time.monotonic()
        result = tick.run(mark)
        if self._marks is not None:
            self._marks.end(place)
        self._since[place] = 0.0
        return result

    def _lose_device(self) -> None:
        log.critical("the device is unusable; this worker ends", exc_info=True)
        self._status = UNUSABLE
        if self._abort is not None:
            self._abort(UNUSABLE)

    def _lead(self) -> Tick | None:
        """Read the socket until there is something to compute; None when the other side has closed."""
        with self._leader:
            while self._open:
                while self._open and self._frames_wait():
                    self._receive()
                if (tick := self._begin()) is not None:
                    return tick
                self._wait()
        return None

    def _wait(self) -> None:
        """Wait until the other side says something, which is taken in, or a lane wakes."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll()]
        if self._woken.fileno() in ready:
            self._woken.recv(CHUNK)
        if self._sock.fileno() in ready:
            self._receive()

    def _wake(self) -> None:
        """Have the thread that leads ask the lanes again; called from any thread."""
        with contextlib.suppress(OSError):  # full: it is going to wake; closed: nobody is left to
            self._waker.send(b"\0")

    def _begin(self) -> Tick | None:
        with self._state:
            return self._dispatcher.begin() if self._open else None

    def _finish(self, tick: Tick, result: Result) -> Tick | None:
        """Send what a tick made; the next one, when another thread is reading the socket and there is more to do.

        When nobody reads it, this thread does before anything else is begun: however much work waits, a ping, a
        cancellation or a new job is taken in as soon as any tick ends.
        """
        header, arrays = result.frame(tick.name)
        with self._state:
            self._send(header, *arrays)
            if result.limit is not None:
                self._bound(tick.name, result.limit)
            if self._dispatcher.finish(tick, result.seconds):
                self._send_slots(tick.name)  # of a lane that has slots, it may have changed them
        return self._begin() if self._leader.locked() else None

    def _bound(self, name: str, rows: int) -> None:
        """Make no larger batches of a model than fit into memory."""
        lane = self._lanes[name]
        assert isinstance(lane, DynamicBatcher | RefiningBatcher)
        if lane.bound(rows):
            log.warning("%s ran out of memory; its batches hold %d rows at most from now on", name, rows)
            self._send({"type": "limit", "model": name, "rows": rows})

    def _interrupted(self, name: str) -> bool:
        """Whether a lane's running tick holds up something: its own jobs, or what nobody else is free to read."""
        return self._dispatcher.has_unsaid(name) or (not self._leader.locked() and self._frames_wait())

    def _frames_wait(self) -> bool:
        """Whether the other side has said something that was not read yet."""
        poll = select.poll()  # one of its own, as two threads may ask at once; select() knows no descriptor above 1,023
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def _receive(self) -> None:
        """Take in what the socket holds, waiting for it if it holds nothing."""
        data = self._sock.recv(CHUNK)
        if not data:
            self._open = False
        with self._state:
            for frame in self._reader.feed(data):
                self._handle(frame)

    def _handle(self, frame: Frame) -> None:
        match frame.type:
            case "submit":
                arrays = iter(frame.arrays)
                for number, model, *rest in frame.header["jobs"]:
                    self._submit(number, _latent_job(model, arrays, *rest))
            case "sequences":
                conditions, grammars = iter(frame.arrays), [Grammar(*raw) for raw in frame.header["grammars"]]
                for number, raw in frame.header["jobs"]:
                    self._submit(number, _sequence_job(raw, conditions, grammars))
            case "cancel":
                self._cancel(set(frame.header["jobs"]))
            case "ping":
                self._send({"type": "pong", "id": frame.header["id"], "oldest": self._oldest()})

    def _oldest(self) -> float:
        """Seconds since the oldest running tick began."""
        return max((time.monotonic() - since for since in self._since if since), default=0.0)

    def _submit(self, number: int, job: LatentJob | SequenceJob) -> None:
        lane = self._lanes[job.model]
        if isinstance(lane, DynamicBatcher):
            assert isinstance(job, LatentJob)
            lane.submit(number, job)
        elif isinstance(lane, RefiningBatcher):
            assert isinstance(job, RefineJob)
            self._dispatcher.say(job.model, partial(lane.submit, number, job))
        else:
            assert isinstance(job, SequenceJob)
            self._dispatcher.say(job.model, partial(lane.submit, number, job))

    def _cancel(self, numbers: set[int]) -> None:
        for name, lane in self._lanes.items():
            done = self._dispatcher.say(name, partial(lane.cancel, numbers))
            if done:  # no tick may follow that would tell
                self._send_slots(name)

    def _send_slots(self, name: str) -> None:
        """How many slots of a lane are in use, where it has any."""
        lane = self._lanes[name]
        if isinstance(lane, ContinuousBatcher):
            self._send({"type": "slots", "model": name, "busy": lane.busy})

    def _send(self, header: Mapping[str, Any], *arrays: Any) -> None:
        for buffer in pack(header, arrays):
            self._sock.sendall(buffer)


def _latent_job(model: str, arrays: Iterator[Any], client: str, deadline: float, steps: int = 0) -> LatentJob:
    """A job as it came over the link; one with steps brings more arrays than one without."""
    inputs, labels = next(arrays), next(arrays)
    if not steps:
        return LatentJob(model, inputs, labels, client, deadline)
    return RefineJob(model, inputs, labels, client, deadline, steps, next(arrays), next(arrays), next(arrays))


def _sequence_job(
    raw: Mapping[str, Any], conditions: Iterator[Condition], grammars: Sequence[Grammar] = ()
) -> SequenceJob:
    """A job as it came over the link: tuples are lists, dataclasses maps, a grammar its place; an array follows."""
    sampling = {**raw["sampling"], "bias": tuple((token, value) for token, value in raw["sampling"]["bias"])}
    tuples = {name: tuple(raw[name]) for name in ("prompt", "stop_tokens")}
    grammar = None if raw["grammar"] is None else grammars[raw["grammar"]]
    condition = next(conditions) if raw["condition"] else None
    fields = {**raw, **tuples, "sampling": Sampling(**sampling), "grammar": grammar, "condition": condition}
    return SequenceJob(**fields)
