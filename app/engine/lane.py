"""One device as the engine sees it: a kept worker, what is in flight there, and what is to be sent."""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from app.engine.admission import Admission
from app.engine.flight import Flight, Picture, Strand
from app.engine.jobs import Grammar, RefineJob, SequenceJob
from app.engine.keeper import Keeper
from app.engine.link import LinkError
from app.engine.trial import Trial

FRAME_BYTES = 1 << 23  # after so many a frame is sent, whose own bound is far above
JOB_BYTES, TOKEN_BYTES, BIAS_BYTES, CHARACTER_BYTES = 512, 5, 16, 4  # in a frame: at most, the first roughly

log = logging.getLogger("genserve.engine")


class Lane:
    """A worker's side of the engine.

    Attributes:
        name: in metrics.
        loaded: its worker has loaded and warmed up.
        open: it takes new work: it is loaded, and no suspect of a crash is on trial.
        outbox: numbers of jobs to send.
        departed: numbers of jobs to take back.
    """

    def __init__(self, name: str, keeper: Keeper, max_rows: int) -> None:
        self.name = name
        self.keeper = keeper
        self.admission = Admission(max_rows)
        self.trial = Trial()
        self.loaded = self.open = False
        self.outbox: list[int] = []
        self.departed: list[int] = []
        self._waiting: list[int] = []

    def flush(self, flights: Mapping[int, Flight]) -> list[int]:
        """Send what is to be sent: pictures in one frame, sequences in another, departures in a third.

        Returns:
            Jobs that no frame can carry.
        """
        numbers, departed = self.outbox, self.departed
        self.outbox, self.departed = [], []
        if departed:
            self.keeper.send({"type": "cancel", "jobs": departed})
        unsent: list[int] = []
        load = _Load()
        for number in numbers:
            flight = flights.get(number)
            if flight is None or flight.lane is not self:
                continue
            if isinstance(flight, Strand) or not flight.future.done():
                load.add(number, flight)
            if load.size > FRAME_BYTES:
                unsent += self._send(load)
                load = _Load()
        return unsent + self._send(load)

    def _send(self, load: "_Load") -> list[int]:
        """Send what was loaded; the jobs of what is too large for a frame."""
        unsent: list[int] = []
        for frame in load.frames():
            try:
                self.keeper.send(*frame)
            except LinkError as error:
                log.error("not sent: %s", error)
                unsent += [number for number, *_ in frame[0]["jobs"]]
        return unsent

    def restart(self, running: Set[int], held: Iterable[int]) -> None:
        """The worker is gone: of what it held, what was running is suspect, the rest waits."""
        self.outbox, self.departed = [], []
        held = list(held)
        self.trial.open(number for number in held if number in running)
        self._waiting = [number for number in held if number not in running]

    def wait(self, number: int) -> None:
        """A job that is sent once the lane is open."""
        self._waiting.append(number)

    def take_waiting(self) -> list[int]:
        """What waits to be sent again; the caller has it now."""
        waiting, self._waiting = self._waiting, []
        return waiting


@dataclass(slots=True)
class _Load:
    """Jobs on their way into frames.

    Attributes:
        size: bytes, roughly; what several sequences share is counted once, as it is sent.
    """

    size: int = 0
    _pictures: list[tuple[int, Picture]] = field(default_factory=list)
    _sequences: list[tuple[int, SequenceJob]] = field(default_factory=list)
    _grammars: dict[Grammar, int] = field(default_factory=dict)

    def add(self, number: int, flight: Flight) -> None:
        """One more."""
        if isinstance(flight, Picture):
            self._pictures.append((number, flight))
            self.size += sum(array.nbytes for array in flight.job.arrays)
            return
        job = flight.job
        self._sequences.append((number, job))
        self.size += _bytes_of(job)
        if job.grammar is not None and job.grammar not in self._grammars:
            self._grammars[job.grammar] = len(self._grammars)
            self.size += CHARACTER_BYTES * len(job.grammar.text)

    def frames(self) -> Iterator[tuple[dict[str, Any], list[NDArray[Any]]]]:
        """Headers, and the arrays that go with them."""
        if self._pictures:
            jobs = [(number, *_as_row(flight)) for number, flight in self._pictures]
            arrays = [array for _, flight in self._pictures for array in flight.job.arrays]
            yield {"type": "submit", "jobs": jobs}, arrays
        if self._sequences:
            raw = [(number, self._as_message(job)) for number, job in self._sequences]
            grammars = [(grammar.kind, grammar.text) for grammar in self._grammars]
            conditions = [job.condition for _, job in self._sequences if job.condition is not None]
            yield {"type": "sequences", "jobs": raw, "grammars": grammars}, conditions

    def _as_message(self, job: SequenceJob) -> dict[str, Any]:
        """A job's fields; the place of its grammar; of its condition, which is an array, whether there is one."""
        fields = dataclasses.asdict(dataclasses.replace(job, condition=None, grammar=None))
        grammar = None if job.grammar is None else self._grammars[job.grammar]
        return {**fields, "condition": job.condition is not None, "grammar": grammar}


def _bytes_of(job: SequenceJob) -> int:
    """What a job takes in a frame, at most, without its grammar."""
    tokens = len(job.prompt) + len(job.stop_tokens) + len(job.forced)
    condition = 0 if job.condition is None else job.condition.nbytes
    return JOB_BYTES + TOKEN_BYTES * tokens + BIAS_BYTES * len(job.sampling.bias) + condition


def _as_row(flight: Picture) -> tuple[Any, ...]:
    """What of a job travels in the header: model, client, deadline, and the steps of one that takes them."""
    job = flight.job
    steps = (job.steps,) if isinstance(job, RefineJob) else ()
    return job.model, flight.place.client, flight.deadline, *steps
