"""What can be taken over from which slot."""

import numpy as np
import pytest

from app.worker.pieces import CHUNK, piece_end, whole_pieces
from app.worker.prefixes import Prefixes, shared


def prompt(*parts):
    """Tokens from (first, count) pairs."""
    return np.concatenate([np.arange(first, first + count) for first, count in parts])


LONG = prompt((0, 3 * CHUNK + 10))


@pytest.mark.parametrize(
    ("start", "length", "end"),
    [(0, 1, 1), (0, CHUNK, CHUNK), (0, CHUNK + 1, CHUNK), (CHUNK, CHUNK + 1, CHUNK + 1), (CHUNK, 900, 2 * CHUNK)],
)
def test_pieces_end_at_an_edge_or_with_the_prompt(start, length, end):
    assert piece_end(start, length) == end


def test_nothing_is_left_of_a_prompt_that_was_read():
    assert piece_end(70, 70) == 70
    assert [whole_pieces(n) for n in (0, CHUNK - 1, CHUNK, 2 * CHUNK + 5)] == [0, 0, CHUNK, 2 * CHUNK]


@pytest.mark.parametrize(
    ("other", "length"),
    [
        (prompt((0, 2 * CHUNK + 3), (900, 50)), 2 * CHUNK),
        (prompt((0, CHUNK - 1), (900, 50)), 0),
        (prompt((0, CHUNK)), CHUNK),
        (prompt((0, 900)), 3 * CHUNK),
        (prompt((7, 900)), 0),
        (np.arange(0), 0),
    ],
)
def test_whole_pieces_are_shared(other, length):
    assert shared(LONG, other, ended=True) == shared(LONG, other, ended=False) == length


def test_all_of_a_prompt_is_shared_with_its_equal_once_that_has_ended():
    assert shared(LONG, LONG.copy(), ended=True) == len(LONG)
    assert shared(LONG, LONG.copy(), ended=False) == 3 * CHUNK
    assert shared(np.arange(5), np.arange(5), ended=True) == 5


def test_something_is_left_to_run_where_no_logits_are_kept():
    whole = prompt((0, 2 * CHUNK))
    assert shared(whole, prompt((0, 3 * CHUNK)), ended=True) == CHUNK
    assert shared(whole, whole, ended=False) == CHUNK
    assert shared(whole, whole, ended=True) == 2 * CHUNK


def test_the_best_slot_is_the_one_that_saves_the_most_and_of_equals_one_s_own():
    held = Prefixes(4)
    held.remember(0, LONG[:CHUNK], ended=False)
    held.remember(1, LONG[: 2 * CHUNK], ended=False)
    held.remember(3, LONG[: 2 * CHUNK], ended=False)
    assert held.best(LONG, 3) == (3, 2 * CHUNK)
    assert held.best(LONG, 1) == (1, 2 * CHUNK)
    assert held.best(LONG, 0)[1] == 2 * CHUNK
    held.forget(1)
    held.forget(3)
    assert held.best(LONG, 2) == (0, CHUNK)
    assert held.best(prompt((5, 300)), 2) == (2, 0)


def test_the_stalest_is_given_up_first_and_never_for_what_is_older():
    held = Prefixes(4)
    for slot in (2, 0, 1):
        held.remember(slot, LONG, ended=True)
    assert held.stalest([0, 1, 2], than=3) is None
    assert held.stalest([0, 1, 2, 3], than=1) == 3, "one that holds nothing"
    assert held.stalest([0, 2], than=1) == 2
    held.use(2)
    assert held.stalest([0, 2], than=1) == 0
    assert held.stalest([1, 2], than=0) is None
    assert held.stalest([], than=0) is None


def test_moving_keeps_the_age():
    held = Prefixes(3)
    held.remember(0, LONG, ended=True)
    held.remember(1, LONG, ended=True)
    held.move(0, 2)
    assert held.stalest([0, 2], than=1) in {0, 2}
    held.forget(0)
    assert held.best(LONG, 2) == (2, len(LONG))


def test_short_prompts_are_not_worth_a_copy():
    held = Prefixes(2)
    held.remember(0, LONG[: CHUNK - 1], ended=True)
    assert held.holds(0) == held.holds(1) == 0
    held.remember(0, LONG[: CHUNK + 9], ended=True)
    assert held.holds(0) == CHUNK + 9
    assert held.holding([0])
    assert not held.holding([1])
