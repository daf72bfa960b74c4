"""Clients take turns of a few rows, and so do the jobs of each; nothing is lost, and nothing expired is computed."""

import itertools
import math
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.engine.jobs import LatentJob
from app.worker.row_queue import TURN_ROWS, RowQueue

PASSED = 0.0  # a deadline that no machine's clock has still before it


def job(rows, client="", deadline=math.inf):
    return LatentJob("m", np.zeros((rows, 1), np.float32), np.zeros(rows, np.int64), client, deadline)


def queue_of(*jobs):
    """A queue of (number, rows, client)."""
    queue = RowQueue()
    for number, rows, client in jobs:
        queue.add(number, job(rows, client))
    return queue


def taken(queue, limit):
    """Rows by job, in the order of their turns."""
    return {piece.number: (piece.start, piece.rows) for piece in queue.take(limit)}


def test_clients_take_turns():
    queue = queue_of((1, 20, "a"), (2, 20, "a"), (3, 20, "b"))
    assert [taken(queue, TURN_ROWS) for _ in range(6)] == [
        {1: (0, 8)},
        {3: (0, 8)},
        {2: (0, 8)},
        {3: (8, 8)},
        {1: (8, 8)},
        {3: (16, 4), 2: (8, 4)},
    ]
    assert queue.rows == 20 * 3 - 48


def test_the_jobs_of_a_client_take_turns():
    queue = queue_of((1, 20, "a"), (2, 20, "a"), (3, 1, "a"))
    assert taken(queue, 3 * TURN_ROWS) == {1: (0, 15), 2: (0, 8), 3: (0, 1)}


def test_a_thousand_jobs_of_one_client_do_not_hold_up_another_s():
    queue = queue_of(*((number, 1, "many") for number in range(1, 1001)), (2000, 1, "one"))
    assert taken(queue, TURN_ROWS + 1).keys() == {*range(1, TURN_ROWS + 1), 2000}


def test_what_a_client_had_beyond_its_turn_is_taken_off_the_next():
    """Jobs of 5 rows are not cut at the end of a client's turn; over time its share is the same."""
    queue = queue_of(
        *((number, 5, "fives") for number in range(100)), *((number, 1, "ones") for number in range(100, 600))
    )
    had = Counter()
    while queue.rows > 400:
        for piece in queue.take(TURN_ROWS):
            had[piece.number < 100] += piece.rows
        assert abs(had[True] - had[False]) <= 2 * TURN_ROWS


def test_a_job_that_a_batch_has_cut_goes_on_in_the_next():
    queue = queue_of((1, 5, "a"), (2, 5, "a"), (3, 5, "a"), (4, 5, "b"))
    assert taken(queue, 7) == {1: (0, 5), 2: (0, 2)}
    assert taken(queue, 7) == {2: (2, 3), 4: (0, 4)}
    assert taken(queue, 99) == {4: (4, 1), 3: (0, 5)}
    assert queue.take(1) == []


def test_a_lone_row_says_how_long_it_has_waited():
    (piece,) = queue_of((1, 1, "a")).take(4)
    assert (piece.number, piece.start, piece.rows) == (1, 0, 1)
    assert 0 <= piece.waited < 60


def test_what_has_expired_is_dropped():
    queue = RowQueue()
    for number in range(100):
        queue.add(number, job(3, "a", PASSED if number % 10 else math.inf))
    queue.add(500, job(3, "b", PASSED))
    assert queue.rows == 303
    assert taken(queue, 5) == {0: (0, 3), 10: (0, 2)}
    assert taken(queue, 99) == {number: (2, 1) if number == 10 else (0, 3) for number in range(10, 100, 10)}
    assert queue.rows == 0
    queue.add(1, job(2, "a", PASSED))
    assert queue.take(8) == []
    assert queue.rows == 0


def test_a_job_may_expire_half_way():
    queue = RowQueue()
    own = job(20, "a")
    queue.add(1, own)
    queue.take(8)
    object.__setattr__(own, "deadline", PASSED)
    assert queue.take(8) == []
    assert queue.rows == 0


def test_who_leaves_in_the_middle_of_a_turn_holds_up_nobody():
    queue = queue_of((1, 8, "a"), (2, 8, "a"), (3, 8, "b"))
    assert taken(queue, 3) == {1: (0, 3)}
    queue.remove({1, 2, 77})
    assert queue.rows == 8
    assert taken(queue, 99) == {3: (0, 8)}


def test_leaving_costs_the_same_however_long_the_queue():
    """If each looked through the queue, this would take hours."""
    queue = RowQueue()
    shared = job(1, "a")
    for number in range(100_000):
        queue.add(number, shared)
    for number in range(100_000):
        queue.remove({99_999 - number})
    assert queue.rows == 0
    assert queue.take(1) == []


@given(
    st.lists(st.lists(st.integers(1, 70), min_size=1, max_size=5), min_size=2, max_size=5),
    st.lists(st.integers(1, 64), min_size=1, max_size=40),
)
def test_clients_that_always_wait_get_the_same(sizes, limits):
    """Whatever the sizes of their jobs and of the batches: no client is ever two turns ahead of another."""
    queue, numbers, owner = RowQueue(), itertools.count(), {}
    endless = [itertools.cycle(own) for own in sizes]

    def refill(client):
        number = next(numbers)
        owner[number] = client
        rows = next(endless[client])
        queue.add(number, job(rows, str(client)))
        return rows

    waiting = [0] * len(sizes)
    had = [0] * len(sizes)
    for limit in limits:
        for client in range(len(sizes)):
            while waiting[client] <= 64 * len(limits):
                waiting[client] += refill(client)
        for piece in queue.take(limit):
            had[owner[piece.number]] += piece.rows
            waiting[owner[piece.number]] -= piece.rows
        assert max(had) - min(had) < 2 * TURN_ROWS
    assert sum(had) == sum(limits)


class Random(RuleBasedStateMachine):
    """Random arrivals, departures and batches against a plain account."""

    def __init__(self):
        super().__init__()
        self.queue, self.owed, self.expired, self.number = RowQueue(), {}, {}, 0

    @rule(rows=st.integers(1, 30), client=st.sampled_from("abc"), late=st.sampled_from([False, False, True]))
    def add(self, rows, client, late):
        self.number += 1
        self.queue.add(self.number, job(rows, client, PASSED if late else math.inf))
        (self.expired if late else self.owed)[self.number] = [0, rows]

    @rule(data=st.data())
    def remove(self, data):
        numbers = data.draw(st.sets(st.sampled_from([*self.owed, *self.expired, 10_000])))
        self.queue.remove(numbers)
        for number in numbers:
            self.owed.pop(number, None)
            self.expired.pop(number, None)

    @rule(limit=st.integers(1, 64))
    @precondition(lambda self: self.queue.rows)
    def take(self, limit):
        pieces = self.queue.take(limit)
        assert sum(piece.rows for piece in pieces) == min(limit, sum(end - start for start, end in self.owed.values()))
        assert len({piece.number for piece in pieces}) == len(pieces), "one slice a job"
        for piece in pieces:
            owed = self.owed[piece.number]
            assert piece.start == owed[0], "in order, once each"
            owed[0] += piece.rows
        self.owed = {number: owed for number, owed in self.owed.items() if owed[0] < owed[1]}
        self.expired = {number: rows for number, rows in self.expired.items() if number in self.queue._names}

    @invariant()
    def counts_agree(self):
        assert self.queue.rows == sum(end - start for start, end in [*self.owed.values(), *self.expired.values()])
        assert self.queue._names.keys() == self.owed.keys() | self.expired.keys()
        assert sum(len(client.jobs) for client in self.queue._clients.values()) == len(self.queue._names)
        assert all(client.jobs for client in self.queue._clients.values())


TestRandom = Random.TestCase
