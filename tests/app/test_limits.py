"""The sweep over connections, and the limit of open files."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.limits import OTHER_FILES, Limits, Sweep
from tests.serving import PATIENCE, eventually

ROOT = Path(__file__).parents[2]


class Connection:
    def __init__(self):
        self.checked = 0

    def check(self):
        self.checked += 1


QUICK = Limits(read_timeout=0.04)


async def test_it_looks_as_long_as_there_is_something():
    sweep, one, connections = Sweep(QUICK), Connection(), set()
    connections.add(one)
    sweep.watch(connections)
    await eventually(lambda: one.checked >= 3)
    assert sweep.now >= 3
    connections.clear()
    await eventually(lambda: sweep._timer is None)
    now = sweep.now
    await asyncio.sleep(0.05)
    assert sweep.now == now, "nothing runs any more"
    connections.add(one)
    sweep.watch(connections)
    await eventually(lambda: sweep.now > now)
    connections.clear()


async def test_watching_twice_is_watching_once():
    sweep, connections = Sweep(Limits()), {Connection()}
    sweep.watch(connections)
    timer = sweep._timer
    sweep.watch(connections)
    assert sweep._timer is timer
    timer.cancel()


async def test_a_fault_of_one_connection_stops_no_sweep():
    class Broken(Connection):
        def check(self):
            super().check()
            raise ArithmeticError

    faults, broken = [], Broken()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))
    sweep, connections = Sweep(QUICK), {broken}
    sweep.watch(connections)
    await eventually(lambda: broken.checked >= 2)
    connections.clear()
    assert {type(fault) for fault in faults} == {ArithmeticError}


@pytest.mark.parametrize("timeout", [0.001, 0.3, 1.0, 2.0, 3.7, 30.0, 3600.0])
def test_never_early_and_hardly_late(timeout):
    """A wait begins anywhere between two sweeps, and ends with one."""
    sweep = Sweep(Limits(read_timeout=timeout))
    least, most = (sweep.read - 1) * sweep._every, sweep.read * sweep._every
    assert least >= timeout
    assert most <= timeout + max(0.02, min(2.0, timeout / 2))


async def test_what_is_refused_is_told_now_and_then(caplog):
    sweep, connections = Sweep(Limits(read_timeout=0.04, max_connections=7)), {Connection()}
    sweep.watch(connections)
    for _ in range(5):
        sweep.refused()
        now = sweep.now
        await eventually(lambda now=now: sweep.now > now)
    connections.clear()
    await eventually(lambda: sweep._timer is None)
    told = [re.fullmatch(r"(\d+) connections closed at once: max_connections is 7", m)[1] for m in caplog.messages]
    assert sum(map(int, told)) == 5
    assert len(told) < 5, "one line for several"


def allow_files(soft, hard, connections):
    """In a process of its own: its soft limit afterwards, and what it says."""
    code = (
        "import resource, sys; from app.limits import allow_files\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        f"allow_files({connections}); print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return done.stdout.strip(), done.stderr.strip()


def test_the_limit_of_open_files_is_raised_to_what_is_needed():
    assert allow_files(256, 4000, 100) == (str((100 + OTHER_FILES, 4000)), "")


def test_it_is_never_lowered():
    assert allow_files(3000, 4000, 100) == ("(3000, 4000)", "")


def test_a_hard_limit_that_is_too_low_is_told():
    limit, said = allow_files(256, 4000, 8192)
    assert limit == "(4000, 4000)"
    assert said == f"max_connections 8192 needs {8192 + OTHER_FILES} open files, but only 4000 are allowed"
