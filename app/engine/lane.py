"""One device as the engine sees it: a kept worker, what is in flight there, and what is to be sent."""

import dataclasses
from collections.abc import Iterable, Mapping, Set
from typing import Any

from app.engine.admission import Admission
from app.engine.flight import Flight, Picture, Strand
from app.engine.jobs import RefineJob, SequenceJob
from app.engine.keeper import Keeper
from app.engine.trial import Trial

FRAME_BYTES = 1 << 23  # of rows, or tokens of prompts: after so many a frame is sent, whose own bound is far above


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

    def flush(self, flights: Mapping[int, Flight]) -> None:
        """Send what is to be sent: pictures in one frame, sequences in another, departures in a third."""
        numbers, departed = self.outbox, self.departed
        self.outbox, self.departed = [], []
        pictures: list[tuple[int, Picture]] = []
        sequences: list[tuple[int, SequenceJob]] = []
        size = 0
        for number in numbers:
            flight = flights.get(number)
            if flight is None or flight.lane is not self:
                continue
            if isinstance(flight, Strand):
                sequences.append((number, flight.job))
                size += len(flight.job.prompt) + (0 if flight.job.condition is None else flight.job.condition.nbytes)
            elif not flight.future.done():
                pictures.append((number, flight))
                size += sum(array.nbytes for array in flight.job.arrays)
            if size > FRAME_BYTES:
                self._send(pictures, sequences)
                pictures, sequences, size = [], [], 0
        self._send(pictures, sequences)
        if departed:
            self.keeper.send({"type": "cancel", "jobs": departed})

    def _send(self, pictures: list[tuple[int, Picture]], sequences: list[tuple[int, SequenceJob]]) -> None:
        if pictures:
            jobs = [(number, *_as_row(flight)) for number, flight in pictures]
            arrays = [array for _, flight in pictures for array in flight.job.arrays]
            self.keeper.send({"type": "submit", "jobs": jobs}, arrays)
        if sequences:
            raw = [(number, _as_message(job)) for number, job in sequences]
            conditions = [job.condition for _, job in sequences if job.condition is not None]
            self.keeper.send({"type": "sequences", "jobs": raw}, conditions)

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


def _as_row(flight: Picture) -> tuple[Any, ...]:
    """What of a job travels in the header: model, client, deadline, and the steps of one that takes them."""
    job = flight.job
    steps = (job.steps,) if isinstance(job, RefineJob) else ()
    return job.model, flight.place.client, flight.deadline, *steps


def _as_message(job: SequenceJob) -> dict[str, Any]:
    """A job's fields; of its condition, which travels as an array, whether there is one."""
    fields = dataclasses.asdict(job if job.condition is None else dataclasses.replace(job, condition=None))
    return {**fields, "condition": job.condition is not None}
