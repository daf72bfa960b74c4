"""Rows come back until they are done; clients take turns, and so do the jobs of each."""

import math

import numpy as np
import pytest

from app.engine.jobs import RefineJob
from app.worker.turns import Row, Turns


def rows(number, count, client="", deadline=math.inf):
    job = RefineJob("m", np.zeros((count, 2), np.float32), np.zeros(count, np.int64), client, deadline, steps=3)
    return [Row(number, job, i, np.zeros(2, np.float32), 0.0) for i in range(count)]


def named(taken):
    return [(row.number, row.index) for row in taken]


def test_clients_take_turns_a_row_at_a_time():
    turns = Turns()
    turns.add(rows(1, 4, "a"))
    turns.add(rows(2, 1, "b"))
    turns.add(rows(3, 1, "c"))
    assert turns.rows == 6
    assert named(turns.take(4)) == [(1, 0), (2, 0), (3, 0), (1, 1)]
    assert turns.rows == 2


def test_the_jobs_of_a_client_take_turns():
    turns = Turns()
    turns.add(rows(1, 3, "a"))
    turns.add(rows(2, 2, "a"))
    assert named(turns.take(5)) == [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2)]
    assert turns.take(5) == []


def test_rows_that_have_begun_go_before_others_of_their_job():
    turns = Turns()
    turns.add(rows(1, 4))
    turns.put_back(turns.take(2))
    assert named(turns.take(3)) == [(1, 0), (1, 1), (1, 2)]


def test_a_client_that_comes_later_is_in_the_next_tick():
    """However many steps the others have before them."""
    turns = Turns()
    turns.add(rows(1, 64, "a"))
    turns.put_back(turns.take(8))
    turns.add(rows(2, 1, "b"))
    assert (2, 0) in named(turns.take(8))


def test_what_is_removed_or_has_expired_is_gone():
    turns = Turns()
    turns.add(rows(1, 3, "a"))
    turns.add(rows(2, 3, "a"))
    turns.add(rows(3, 2, "b", deadline=0.0))
    turns.remove({1, 99})
    assert turns.rows == 5
    assert named(turns.take(8)) == [(2, 0), (2, 1), (2, 2)]
    assert turns.rows == 0


@pytest.mark.parametrize("limit", [1, 2, 5, 64])
def test_no_row_is_lost_or_doubled(limit):
    turns = Turns()
    for number, (count, client) in enumerate([(3, "a"), (1, "b"), (7, "a"), (2, "c")]):
        turns.add(rows(number, count, client))
    seen = []
    while turns.rows:
        taken = turns.take(limit)
        for row in taken:
            row.done += 1
        seen += [row for row in taken if not row.left]
        turns.put_back([row for row in taken if row.left])
    assert sorted(named(seen)) == [(n, i) for n, count in enumerate([3, 1, 7, 2]) for i in range(count)]
