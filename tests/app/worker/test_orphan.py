"""A worker does not outlive the process that started it, whatever it is doing."""

import os
import signal
import subprocess
import sys

import pytest

from tests.serving import ROOT, alive, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's doing, on Linux")

# The middle one starts a worker that loads for ever, as far as its link is concerned, and is killed.
CHILD = """
import os, time
from app.worker.orphan import end_with
print(end_with(os.getppid()), os.getpid(), flush=True)
time.sleep(600)
"""
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


def test_it_ends_with_its_parent():
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        said, pid = parent.stdout.readline().split()
        assert said == "True"
        assert alive(int(pid))
        parent.send_signal(signal.SIGKILL)
        parent.wait(60)
        wait_until(lambda: not alive(int(pid)), "the child has outlived its parent")


def test_a_parent_that_was_gone_before():
    code = f"from app.worker.orphan import end_with; print(end_with({os.getpid()}), end_with(1 << 22))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=110, cwd=ROOT)
    assert done.stdout == "True False\n"
