"""Rows take their steps, a few a tick: nobody starves, nobody pays for another, nothing is computed for the gone."""

import math

import numpy as np
import pytest

from app.engine.jobs import LatentJob, RefineJob
from app.worker.dispatch import Dispatcher, unmarked
from app.worker.dynamic import DynamicBatcher
from app.worker.pace import TICK_SECONDS
from app.worker.refining import RefiningBatcher

RAISE, NAN, SHORT_OF_MEMORY = 1000.0, 2000.0, 3000.0
FITS = 4  # rows of a step that holds a `SHORT_OF_MEMORY`


class Counter:
    """Adds what stands beside a row, the number of the step, to its state; latents are the first two numbers."""

    def __init__(self, buckets=(4, 8), seconds=(0.005, 0.01)):
        self.buckets, self.seconds = buckets, seconds
        self.steps = []  # rows of each

    def bucket_for(self, rows):
        return next(size for size in self.buckets if size >= rows)

    def begin(self, job, index):
        return np.append(job.inputs[index], 0.0).astype(np.float32)

    def beside(self, job, index, step):
        return np.array([step + 1 + job.seeds[index]], np.float32)

    def latents(self, states):
        return states[:, :2]

    def compute(self, rows, labels):
        assert rows.shape[1] == 4
        assert rows.dtype == np.float32
        assert len(rows) == len(labels) <= self.buckets[-1]
        self.steps.append(len(rows))
        if (rows == RAISE).any():
            raise ValueError("a poisoned latent")
        if self.bucket_for(len(rows)) > FITS and (rows == SHORT_OF_MEMORY).any():
            raise MemoryError("no 20 GiB at /secret/path")
        return rows[:, :3] + rows[:, 3:], ~(rows == NAN).any(axis=1)


def job(count=1, steps=3, client="", first=0.0, deadline=math.inf):
    z = np.array([[first, i] for i in range(count)], np.float32)
    seeds = np.arange(count, dtype=np.int64) * 10
    return RefineJob("m/mcmc", z, np.arange(count), client, deadline, steps=steps, seeds=seeds)


def wanted(index, steps, first=0.0):
    moved = sum(range(1, steps + 1)) + 10 * index * steps
    return [first + moved, index + moved]


def drain(lane, most=1000):
    """Tick until nothing waits: results in order, latents and errors by job and row."""
    ticks, made, errors = [], {}, {}
    for _ in range(most):
        if not lane.waiting:
            return ticks, made, errors
        ticks.append(result := lane.begin()(unmarked))
        good = [part for part in result.parts if part.error is None]
        assert len(good) == len(result.made)
        made |= {(part.job, part.offset): row.tolist() for part, row in zip(good, result.made, strict=True)}
        errors |= {(part.job, part.offset): part.error for part in result.parts if part.error}
    raise AssertionError("it does not end")


def test_each_row_takes_its_steps_and_is_answered():
    runner = Counter()
    lane = RefiningBatcher(runner)
    lane.submit(1, job(3, steps=5))
    lane.submit(2, job(1, steps=2))
    assert lane.waiting == 4
    ticks, made, errors = drain(lane)
    assert made == {**{(1, i): wanted(i, 5) for i in range(3)}, (2, 0): wanted(0, 2)}
    assert not errors
    assert sum(tick.stepped for tick in ticks) == 3 * 5 + 2
    assert sum(runner.steps) == 3 * 5 + 2
    assert all(tick.seconds >= 0 for tick in ticks)


@pytest.mark.parametrize(("seconds", "steps"), [(0.005, 6), (0.0101, 2), (0.02, 1), (1.0, 1)])
def test_a_tick_is_short_whatever_was_asked_for(seconds, steps):
    lane = RefiningBatcher(Counter(buckets=(4,), seconds=(seconds,)))
    lane.submit(1, job(4, steps=200))
    result = lane.begin()(unmarked)
    assert result.stepped == 4 * steps
    assert steps == 1 or steps * seconds <= TICK_SECONDS
    assert result.parts == []
    assert lane.waiting == 4


def test_large_steps_are_not_used_where_they_are_long():
    lane = RefiningBatcher(Counter(buckets=(4, 8), seconds=(0.02, 0.035)))
    lane.submit(1, job(8))
    assert lane.begin()(unmarked).rows == 4


def test_a_picture_is_answered_while_a_long_search_runs():
    """By ticks: it waits for the one that runs, and for no other."""

    class Pictures:
        buckets, seconds = (8,), (0.001,)

        def bucket_for(self, rows):
            return 8

        def compute(self, latents, labels):
            return np.zeros((len(labels), 1, 1, 1), np.uint8), np.ones(len(labels), bool)

    search, pictures = RefiningBatcher(Counter(seconds=(0.01, 0.02))), DynamicBatcher(Pictures())
    dispatcher = Dispatcher({"m": pictures, "m/inpaint": search})
    for number in range(8):
        search.submit(number, job(8, steps=200, client=f"client {number}"))
    names = []
    for turn in range(60):
        if turn % 3 == 1:
            pictures.submit(1000 + turn, LatentJob("m", np.zeros((1, 2), np.float32), np.zeros(1, np.int64)))
        tick = dispatcher.begin()
        names.append(tick.name)
        tick.run(unmarked)
        dispatcher.finish(tick, 0.02 if tick.name == "m/inpaint" else 0.001)
    assert names.count("m") == 20, "each picture has had its tick"
    assert all(names[turn] == "m" for turn in range(1, 60, 3)), "the very next one"
    assert names.count("m/inpaint") == 40, "and the search goes on"


def test_a_search_runs_on_one_thread_at_a_time_and_is_told_of_departures_after_its_tick():
    lane = RefiningBatcher(Counter())
    dispatcher = Dispatcher({"m/mcmc": lane})
    lane.submit(1, job(2, steps=200))
    lane.submit(2, job(2, steps=200))
    tick = dispatcher.begin()
    assert dispatcher.begin() is None
    assert not dispatcher.say("m/mcmc", lambda: lane.cancel({1}))
    tick.run(unmarked)
    dispatcher.finish(tick, 0.02)
    _, made, _ = drain(lane)
    assert set(made) == {(2, 0), (2, 1)}


def test_nothing_more_is_computed_for_a_client_that_has_left():
    runner = Counter()
    lane = RefiningBatcher(runner)
    lane.submit(1, job(4, steps=200))
    lane.begin()(unmarked)
    before = len(runner.steps)
    lane.cancel({1})
    assert lane.waiting == 0
    assert lane.begin() is None
    assert len(runner.steps) == before


def test_what_has_expired_is_dropped():
    lane = RefiningBatcher(Counter())
    lane.submit(1, job(3, deadline=0.0))
    assert lane.waiting == 3
    assert lane.begin() is None
    assert lane.waiting == 0


def test_a_row_that_goes_non_finite_fails_alone():
    lane = RefiningBatcher(Counter())
    for number, first in enumerate([0.0, NAN, 0.0, 0.0]):
        lane.submit(number, job(1, steps=4, first=first))
    _, made, errors = drain(lane)
    assert made == {(number, 0): wanted(0, 4) for number in (0, 2, 3)}
    assert errors == {(1, 0): "the model's output is not finite"}


def test_a_row_that_raises_fails_alone_and_its_message_stays_here():
    lane = RefiningBatcher(Counter())
    for number, first in enumerate([0.0, 0.0, RAISE, 0.0, 0.0]):
        lane.submit(number, job(1, steps=2, first=first))
    ticks, made, errors = drain(lane)
    assert set(made) == {(number, 0) for number in (0, 1, 3, 4)}
    assert errors == {(2, 0): "the model raised ValueError"}
    assert sum(len(tick.parts) for tick in ticks) == 5


def test_where_memory_runs_out_steps_become_smaller():
    runner = Counter()
    lane = RefiningBatcher(runner)
    lane.submit(1, job(8, steps=3, first=SHORT_OF_MEMORY))
    result = lane.begin()(unmarked)
    assert result.limit == FITS
    assert lane.bound(result.limit)
    assert not lane.bound(result.limit)
    runner.steps.clear()
    _, made, errors = drain(lane)
    assert len(made) + len([part for part in result.parts if not part.error]) == 8
    assert not errors
    assert max(runner.steps, default=0) <= FITS


def test_marks_name_the_jobs_of_a_tick():
    lane = RefiningBatcher(Counter())
    lane.submit(5, job(2))
    lane.submit(7, job(1))
    marked = []
    lane.begin()(marked.extend)
    assert set(marked) == {5, 7}


def test_the_message_counts_steps_for_admission():
    lane = RefiningBatcher(Counter())
    lane.submit(1, job(2, steps=2))
    header, (made,) = lane.begin()(unmarked).frame("m/mcmc")
    assert (header["rows"], header["work"], header["padding"]) == (2, 4, 4)
    assert header["parts"] == [(1, 0, 1, None), (1, 1, 1, None)]
    assert made.shape == (2, 2)
