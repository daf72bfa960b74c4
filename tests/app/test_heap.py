"""What is free is given back, and what stays is left alone."""

import subprocess
import sys

# In a process of its own: freezing can't be told apart from what else this one holds.
SCRIPT = """
import ctypes, gc, sys
from pathlib import Path
from app import heap

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

taken = [bytes(1000) for _ in range(100_000)]
stays = bytes(1000)
full = resident()
taken.clear()
heap.settle()
assert gc.get_freeze_count() > 1000 and gc.get_threshold() == heap.GC_THRESHOLD
if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):
    assert resident() < full - 15_000, "90 MB of pages are given back"
ctypes.CDLL = lambda _: object()
heap.give_back()
"""


def test_a_process_settles_with_any_c_library():
    assert subprocess.run([sys.executable, "-c", SCRIPT], check=False).returncode == 0
