"""Who is in which slot, and what a slot holds besides: prompts that others may begin with, and what a failure has left.

Knows sequences and what can be taken over from where; the runner does the copying. A sequence gets the lowest free
slot, because a step computes all rows up to the highest that is live. What that slot holds of an earlier prompt moves
to another free one, so that low slots are for running and high ones remember.
"""

import logging
from collections.abc import Iterable
from typing import Protocol

from app.worker.pieces import Piece
from app.worker.prefixes import Prefixes, shared
from app.worker.progress import Progress

log = logging.getLogger("genserve.worker")


class Memory(Protocol):
    """What is done to the memory behind slots."""

    slots: int
    shares: bool

    def take_over(self, source: int, target: int, length: int) -> None: ...  # noqa: D102
    def forget(self, slot: int) -> None: ...  # noqa: D102
    def scrub(self, slot: int) -> None: ...  # noqa: D102


class Slots:
    """The slots of one model."""

    def __init__(self, memory: Memory) -> None:
        """All of them free."""
        self._memory = memory
        self._sequences: list[Progress | None] = [None] * memory.slots
        self._prefixes = Prefixes(memory.slots)
        self._soiled: set[int] = set()  # slots whose last sequence failed

    def __getitem__(self, slot: int) -> Progress:
        sequence = self._sequences[slot]
        assert sequence is not None
        return sequence

    @property
    def running(self) -> list[Progress]:
        """The sequences in slots."""
        return [sequence for sequence in self._sequences if sequence is not None]

    @property
    def free(self) -> int:
        """How many are."""
        return self._sequences.count(None)

    @property
    def reading(self) -> list[int]:
        """Slots whose prompts have not been read to their end."""
        return [slot for slot, own in enumerate(self._sequences) if own is not None and own.reading]

    @property
    def decoding(self) -> list[int]:
        """Slots with something to advance, ascending."""
        return [slot for slot, own in enumerate(self._sequences) if own is not None and not own.reading]

    def place(self, sequence: Progress) -> None:
        """Give a sequence the lowest free slot."""
        sequence.follows = self._leader(sequence, self.reading) if self._memory.shares else None
        self._sequences[self._sequences.index(None)] = sequence

    def release(self, slot: int) -> None:
        """Free a slot; what it holds of a prompt stays until somebody needs the place."""
        self._sequences[slot] = None

    def remove(self, numbers: set[int]) -> None:
        """Free the slots of these jobs."""
        for slot, sequence in enumerate(self._sequences):
            if sequence is not None and sequence.number in numbers:
                self._sequences[slot] = None

    def soil(self, slot: int) -> None:
        """Free a slot whose sequence failed."""
        self._sequences[slot] = None
        self._soiled.add(slot)
        self.forget([slot])

    def soil_all(self) -> tuple[list[Progress], bool]:
        """Free all slots after a failure; who was in one, and whether one of them may not be the cause alone.

        What free slots hold is rows of a step as well: it counts as company.
        """
        running = self.running
        held = [slot for slot, sequence in enumerate(self._sequences) if sequence is None]
        company = len(running) > 1 or self._prefixes.holding(held)
        self._soiled.update(slot for slot, sequence in enumerate(self._sequences) if sequence is not None)
        self.forget(range(len(self._sequences)))
        self._sequences = [None] * len(self._sequences)
        return running, company

    def forget(self, slots: Iterable[int]) -> None:
        """Rely on nothing that these slots hold."""
        for slot in slots:
            self._prefixes.forget(slot)
            self._memory.forget(slot)

    def remember(self, piece: Piece) -> None:
        """A piece was read into its slot."""
        if self._memory.shares:
            self._prefixes.remember(piece.slot, piece.prompt[: piece.end], ended=piece.row is not None)

    def begin(self) -> int:
        """Prepare the slots of those who come to read; how many positions they need not read."""
        return sum(self._begin(slot, self[slot]) for slot in self.reading if self._may_begin(self[slot]))

    def _leader(self, sequence: Progress, reading: Iterable[int]) -> Progress | None:
        """Who is reading a prompt of which this one can take over the most, and more than from a slot that is ready."""
        leader, (_, best) = None, self._prefixes.best(sequence.prompt, 0)
        for slot in reading:
            if (length := shared(sequence.prompt, self[slot].prompt, ended=True)) > best:
                leader, best = self[slot], length
        return leader

    def _may_begin(self, sequence: Progress) -> bool:
        """Whether a sequence has not begun, and nobody still reads what it is going to take over."""
        if sequence.begun:
            return False
        if sequence.follows is not None and sequence.follows not in self._sequences:
            begun = [slot for slot in self.reading if self[slot].begun]
            sequence.follows = self._leader(sequence, begun)
        leader = sequence.follows
        if leader is None or not leader.reading:
            return True
        return leader.read >= shared(sequence.prompt, leader.prompt, ended=True)

    def _begin(self, slot: int, sequence: Progress) -> int:
        sequence.begun, sequence.follows = True, None
        if slot in self._soiled:
            self._scrub(slot)
        if not self._memory.shares:
            return 0
        source, length = self._prefixes.best(sequence.prompt, slot)
        if source != slot or not length:
            self._make_room(slot, source)
        if length and not self._take_over(source, slot, length):
            length = 0
        if self._sequences[source] is None:
            self._prefixes.retire(source, length)
        sequence.read = length
        self._prefixes.remember(slot, sequence.prompt[:length], ended=length == len(sequence.prompt))
        return length

    def _make_room(self, slot: int, source: int) -> None:
        """Move what a slot holds to the free slot that was of use the longest ago, if that is longer ago."""
        length, taken = self._prefixes.holds(slot), {source, *self._soiled}
        free = [other for other, own in enumerate(self._sequences) if own is None and other not in taken]
        target = self._prefixes.stalest(free, slot) if length else None
        if target is not None and self._take_over(slot, target, length):
            self._prefixes.move(slot, target)

    def _take_over(self, source: int, target: int, length: int) -> bool:
        """Copy what one slot holds to another one; whether that could be done."""
        self._prefixes.use(source)
        try:
            self._memory.take_over(source, target, length)
        except Exception as error:  # noqa: BLE001  # whoever needs it reads it again
            log.warning("slot %d can't take over from slot %d: %r", target, source, error)
            self.forget([target])
            return False
        return True

    def _scrub(self, slot: int) -> None:
        """Rid a slot of what a failed sequence may have left: what is not a number passes any mask."""
        try:
            self._memory.scrub(slot)
        except Exception as error:  # noqa: BLE001  # the sequence that comes may well do without
            log.warning("slot %d can't be overwritten: %r", slot, error)
        else:
            self._soiled.discard(slot)
