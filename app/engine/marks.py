"""Which jobs a worker is computing: marks in memory shared with it, readable after its death.

Knows places and numbers, and nothing of what they mean. One thread of the worker writes one place, so nothing is
locked; a place may be read torn while its thread lives, and is read after its death.
"""

import mmap
import os
import struct
import sys
import tempfile
from collections.abc import Iterable
from itertools import islice

MAX_THREADS = 256
MAX_JOBS = 1024
NUMBER = struct.Struct("=Q")
SIZE = MAX_THREADS * (1 + MAX_JOBS) * NUMBER.size  # a count for each place, then the numbers; untouched pages are free


class Marks:
    """One place for each thread of a worker, with the numbers of the jobs that it computes."""

    def __init__(self, fd: int) -> None:
        """Take over a descriptor of `SIZE` bytes."""
        self._fd = fd
        self._memory = mmap.mmap(fd, SIZE)

    @classmethod
    def create(cls) -> "Marks":
        """Empty marks, to be handed to a worker by their `fd`."""
        fd = _shareable_memory()
        os.ftruncate(fd, SIZE)
        return cls(fd)

    @classmethod
    def attach(cls, fd: int) -> "Marks":
        """The marks behind a descriptor, which is taken over: closed with them."""
        return cls(fd)

    @property
    def fd(self) -> int:
        """A descriptor of the memory, not inherited unless asked for."""
        return self._fd

    def begin(self, place: int, numbers: Iterable[int]) -> None:
        """Mark these jobs, and no others, as what the thread of this place computes.

        The first `MAX_JOBS` of them; a thread beyond `MAX_THREADS` leaves no marks.
        """
        if place >= MAX_THREADS:
            return
        kept = list(islice(numbers, MAX_JOBS))
        # The count comes last: a death in between leaves old marks or none, for nothing is computed yet.
        struct.pack_into(f"={len(kept)}Q", self._memory, _numbers_at(place), *kept)
        NUMBER.pack_into(self._memory, _count_at(place), len(kept))

    def end(self, place: int) -> None:
        """The thread of this place computes nothing any more."""
        if place < MAX_THREADS:
            NUMBER.pack_into(self._memory, _count_at(place), 0)

    def running(self) -> set[int]:
        """The jobs that are marked, in any place."""
        found: set[int] = set()
        for place in range(MAX_THREADS):
            (count,) = NUMBER.unpack_from(self._memory, _count_at(place))
            found.update(struct.unpack_from(f"={min(count, MAX_JOBS)}Q", self._memory, _numbers_at(place)))
        return found

    def close(self) -> None:
        """Give the memory up; the other side's marks stay as they are."""
        if not self._memory.closed:
            self._memory.close()
            os.close(self._fd)


def _count_at(place: int) -> int:
    return place * NUMBER.size


def _numbers_at(place: int) -> int:
    return (MAX_THREADS + place * MAX_JOBS) * NUMBER.size


def _shareable_memory() -> int:
    """A descriptor of memory without a name, or, where there is no such thing, of a file without one."""
    if sys.platform == "linux":
        return os.memfd_create("genserve-marks", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
