"""What each slot holds of the prompt that was read into it last, also after its sequence has left.

Knows token ids and slots; copies nothing itself. Only what was read as part of a prompt counts: a token that was
generated has gone through a step, which has other bits.
"""

import itertools
from collections.abc import Iterable

import numpy as np

from app.worker.pieces import CHUNK, Tokens, whole_pieces

NOTHING: Tokens = np.empty(0, np.int64)


def shared(prompt: Tokens, other: Tokens, *, ended: bool) -> int:
    """How many positions of a prompt can be taken over from where another was read.

    Whole pieces, and less than all, so that something is left to run that gives logits; unless the two are equal, and
    the other has been read to its end: then its logits are there too.
    """
    length = min(len(prompt), len(other))
    if not length or prompt[0] != other[0] or (length < CHUNK and len(prompt) != len(other)):
        return 0  # as nearly always: this is asked for every slot
    differ = prompt[:length] != other[:length]
    first = int(differ.argmax())
    common = first if differ[first] else length
    if ended and common == len(prompt) == len(other):
        return common
    return whole_pieces(min(common, len(prompt) - 1))


class Prefixes:
    """The prompts that slots hold, and when they were last of use."""

    def __init__(self, slots: int) -> None:
        """Slots that hold nothing."""
        self._held = [NOTHING] * slots
        self._ended = [False] * slots
        self._used = [0] * slots
        self._clock = itertools.count(1)

    def remember(self, slot: int, read: Tokens, *, ended: bool) -> None:
        """A slot holds these tokens now; `ended`: they are a whole prompt, and the logits after it are kept."""
        self._held[slot], self._ended[slot] = read, ended
        self._used[slot] = next(self._clock)

    def forget(self, slot: int) -> None:
        """A slot holds nothing that may be relied on."""
        self._held[slot], self._ended[slot], self._used[slot] = NOTHING, False, 0

    def move(self, source: int, target: int) -> None:
        """One slot holds now what another one does, and was of use when that was."""
        self._held[target], self._ended[target] = self._held[source], self._ended[source]
        self._used[target] = self._used[source]

    def best(self, prompt: Tokens, own: int) -> tuple[int, int]:
        """Slot and number of the positions that are best taken over; of equals the slot `own`: it copies nothing."""
        lengths = [shared(prompt, held, ended=ended) for held, ended in zip(self._held, self._ended, strict=True)]
        slot = max(range(len(lengths)), key=lambda slot: (lengths[slot], slot == own))
        return slot, lengths[slot]

    def use(self, slot: int) -> None:
        """What a slot holds has been of use just now."""
        self._used[slot] = next(self._clock)

    def retire(self, slot: int, length: int) -> None:
        """Another slot has taken over so much: one that holds hardly more is the first to be given up."""
        if whole_pieces(len(self._held[slot])) <= length:
            self._used[slot] = 0

    def holds(self, slot: int) -> int:
        """Positions that a slot holds, if they are worth a copy."""
        return len(self._held[slot]) if whole_pieces(len(self._held[slot])) else 0

    def stalest(self, slots: Iterable[int], than: int) -> int | None:
        """Of these slots, the one that was of use the longest ago; None when that is not before the slot `than` was."""
        stalest = min(slots, key=lambda slot: self._used[slot], default=None)
        return stalest if stalest is not None and self._used[stalest] < self._used[than] else None

    def holding(self, slots: Iterable[int]) -> bool:
        """Whether any of these slots holds something."""
        return any(len(self._held[slot]) for slot in slots)
