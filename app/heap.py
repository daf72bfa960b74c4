"""What a process does with its memory once it has started: gives back what starting took, lets what stays alone."""

import contextlib
import ctypes
import gc

# Once frozen, the old generation counts as empty, and a long queue would set off one full collection after the other,
# each of which walks all that is in flight.
GC_THRESHOLD = (10_000, 10, 50)


def settle() -> None:
    """Collect, freeze what is left, and give free pages back.

    A full collection takes tens of milliseconds where torch is imported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    give_back()


def give_back() -> None:
    """Return free pages to the system: files that were read leave megabytes between what is still in use."""
    with contextlib.suppress(AttributeError, OSError):  # other C libraries than glibc have no such call
        ctypes.CDLL(None).malloc_trim(0)
