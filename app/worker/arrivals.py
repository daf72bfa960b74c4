"""Sequences that have no slot yet: those whose grammar is being compiled, those that wait, those that run again alone.

Knows whose turn it is by way of the queue; keeps no slots. Whoever's grammar takes time holds up nobody else.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import CancelledError, Future

from app.engine.jobs import Chunk
from app.worker.constraint import Constraint
from app.worker.grammars import GrammarRefused, Grammars, GrammarsBusy, Matcher
from app.worker.progress import Progress
from app.worker.slot_queue import SlotQueue

NO_GRAMMARS = "this model's tokenizer can't be constrained"


class Arrivals:
    """The way to a slot."""

    def __init__(self, slots: int, grammars: Grammars | None, wake: Callable[[], None]) -> None:
        """Nobody waits; `wake` is called, from any thread, when a grammar was compiled."""
        self._queue = SlotQueue[Progress](slots)
        self._grammars, self._wake = grammars, wake
        self._compiling: dict[int, tuple[Progress, Future[Matcher]]] = {}
        self._suspects = deque[Progress]()
        self._ended: list[Chunk] = []

    def __len__(self) -> int:
        return len(self._queue) + len(self._compiling) + len(self._suspects) + len(self._ended)

    @property
    def ready(self) -> bool:
        """Whether there is anything to do for those who wait."""
        compiled = any(future.done() for _, future in self._compiling.values())
        return bool(self._ended or self._suspects or len(self._queue) or compiled)

    def add(self, sequence: Progress) -> None:
        """Queue a sequence, as soon as its grammar is compiled."""
        grammar = sequence.job.grammar
        if grammar is None:
            self._queue_up(sequence)
        elif self._grammars is None:
            self._ended.append(Chunk(sequence.number, (), refused=NO_GRAMMARS))
        else:
            future = self._grammars.compile(grammar)
            self._compiling[sequence.number] = sequence, future
            future.add_done_callback(lambda _: self._wake())

    def suspect(self, sequences: Iterable[Progress]) -> None:
        """Have these run again, each from its start and alone."""
        for sequence in sequences:
            sequence.start_over()
            sequence.suspect = True
            self.add(sequence)

    def remove(self, numbers: set[int]) -> None:
        """Forget these jobs."""
        self._queue.remove(numbers)
        self._suspects = deque(sequence for sequence in self._suspects if sequence.number not in numbers)
        self._ended = [chunk for chunk in self._ended if chunk.job not in numbers]
        for number in numbers & self._compiling.keys():
            self._compiling.pop(number)[1].cancel()

    def settle(self) -> None:
        """Queue the sequences whose grammars are compiled, and end those whose are refused."""
        done = [sequence for sequence, future in self._compiling.values() if future.done()]
        for sequence in done:
            self._take_compiled(sequence, self._compiling.pop(sequence.number)[1])

    def _take_compiled(self, sequence: Progress, future: "Future[Matcher]") -> None:
        try:
            sequence.constraint = Constraint(future.result(), sequence.job.stop_tokens)
        except GrammarsBusy as refusal:
            self._ended.append(Chunk(sequence.number, (), refused=str(refusal), busy=True))
        except (GrammarRefused, CancelledError) as refusal:
            self._ended.append(Chunk(sequence.number, (), refused=str(refusal)))
        else:
            self._queue_up(sequence)

    def _queue_up(self, sequence: Progress) -> None:
        if sequence.job.outputs == 0:
            self._ended.append(Chunk(sequence.number, (), finish="length"))
        elif not sequence.job.forced and sequence.constraint is not None and sequence.constraint.over:
            self._ended.append(Chunk(sequence.number, (), finish="stop"))
        elif sequence.suspect:
            self._suspects.append(sequence)
        else:
            self._queue.add(sequence)

    @property
    def has_ended(self) -> bool:
        """Whether somebody is over without a slot."""
        return bool(self._ended)

    def ended(self) -> list[Chunk]:
        """The last chunks of those that are over without a slot; each once."""
        ended, self._ended = self._ended, []
        return ended

    def upcoming(self, running: Collection[Progress], free: int) -> Progress | None:
        """Who may have one of so many free slots beside those that run; a suspect runs alone."""
        if self._suspects:
            return None if running else self._suspects[0]
        if not free or any(sequence.suspect for sequence in running):
            return None
        return self._queue.upcoming(running)

    def take(self, sequence: Progress) -> float:
        """Give a slot to the one that `upcoming` has named; the seconds that it waited."""
        if sequence.suspect:
            self._suspects.popleft()
        else:
            self._queue.take(sequence)
        return time.monotonic() - sequence.arrived
