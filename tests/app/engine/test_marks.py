"""What a worker was computing can be read after its death, and nothing else."""

import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.marks import MAX_JOBS, MAX_THREADS, Marks
from tests.serving import ROOT


@pytest.fixture
def marks():
    made = Marks.create()
    yield made
    made.close()


def test_nothing_runs_at_first(marks):
    assert marks.running() == set()


def test_places_are_marked_and_cleared_apart(marks):
    marks.begin(0, [1, 2])
    marks.begin(MAX_THREADS - 1, [3, 2**64 - 1])
    assert marks.running() == {1, 2, 3, 2**64 - 1}
    marks.end(0)
    assert marks.running() == {3, 2**64 - 1}
    marks.end(MAX_THREADS - 1)
    assert marks.running() == set()


def test_marking_again_replaces(marks):
    marks.begin(4, [1, 2, 3])
    marks.begin(4, iter([4]))
    assert marks.running() == {4}


def test_more_than_fit(marks):
    """The first ones are kept, and no other place is written over."""
    marks.begin(1, [7])
    marks.begin(0, range(MAX_JOBS + 10))
    marks.begin(MAX_THREADS, [9999])
    marks.end(MAX_THREADS)
    assert marks.running() == set(range(MAX_JOBS))


def test_another_view_of_the_same_memory(marks):
    """It outlives the first one, and the memory outlives both."""
    other = Marks.attach(os.dup(marks.fd))
    marks.begin(0, [5])
    assert other.running() == {5}
    third = Marks.attach(os.dup(marks.fd))
    other.begin(1, [6])
    other.close()
    other.close()
    assert third.running() == {5, 6}
    third.close()


def test_closing_gives_the_descriptor_up():
    marks = Marks.create()
    fd = marks.fd
    marks.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_it_is_not_inherited_unasked(marks):
    assert not os.get_inheritable(marks.fd)


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.none() | st.lists(st.integers(0, 2**64 - 1), max_size=20)),
        max_size=30,
    )
)
def test_any_order_of_events(events):
    marks, expected = Marks.create(), {}
    for place, numbers in events:
        if numbers is None:
            marks.end(place)
        else:
            marks.begin(place, numbers)
        expected[place] = set(numbers or ())
        assert marks.running() == set().union(*expected.values())
    marks.close()


def test_they_outlive_a_killed_process(marks):
    code = f"""
import sys, time
from app.engine.marks import Marks
marks = Marks.attach({marks.fd})
marks.begin(0, [1]); marks.end(0); marks.begin(1, [11, 12]); marks.begin(2, [21])
print("marked", flush=True)
time.sleep(600)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, pass_fds=[marks.fd], stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout.readline() == "marked\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait(60) == -signal.SIGKILL
    assert marks.running() == {11, 12, 21}
