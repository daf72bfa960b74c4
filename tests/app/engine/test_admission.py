"""The queue bound holds, and predictions follow from what was learned."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.admission import Admission, Place
from app.engine.jobs import ModelInfo, encoder_of, inpainter_of

PICTURES = ModelInfo("a", buckets=(1, 8), seconds=(0.1, 0.4))
BOTH = ModelInfo("v", buckets=(4,), seconds=(0.4,), encode_buckets=(1, 8), encode_seconds=(0.1, 0.16))
TEXT = ModelInfo("t", kind="sequence", slots=4, buckets=(4,), seconds=(0.01,))


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def admission(max_rows=64, clock=None):
    made = Admission(max_rows, clock or Clock())
    made.serve(PICTURES)
    made.serve(TEXT)
    return made


def enter(here, client, rows):
    place = here.place("a", client, rows)
    here.enter(place)
    return place


def test_bound_counts_rows_over_all_models_and_keeps_some_for_newcomers():
    here = admission(16)
    enter(here, "x", 12)
    here.enter(Place("t", "x", 1, tokens=5))
    assert here.rows == 13
    assert here.has_room(1, "x")
    assert not here.has_room(2, "x")
    assert here.has_room(3, "y")
    assert not here.has_room(4, "y")


def test_pictures_wait_for_all_that_is_in_flight():
    here = admission()
    enter(here, "x", 10)  # 0.05 s a row
    assert here.pictures_in(here.place("a", "x", 2)) == pytest.approx(0.6)
    assert here.backlog_seconds == pytest.approx(0.5)


def test_a_small_client_waits_for_turns_not_for_a_large_one():
    here = admission()
    enter(here, "x", 60)
    assert here.pictures_in(here.place("a", "y", 1)) == pytest.approx(2 * 0.05)
    enter(here, "y", 10)
    assert here.pictures_in(here.place("a", "y", 1)) == pytest.approx(2 * 11 * 0.05)


def test_leaving_undoes_entering():
    here = admission()
    places = [enter(here, client, rows) for client, rows in (("x", 1), ("y", 3), ("x", 7))]
    here.enter(sequence := Place("t", "y", 1, tokens=9))
    assert here.busy_with("a")
    assert here.busy_with("t")
    for place in (*places, sequence):
        here.leave(place)
    assert (here.rows, here.backlog_seconds) == (0, 0.0)
    assert not here.busy_with("a")
    assert not here.busy_with("t")
    assert here.pictures_in(here.place("a", "x", 1)) == pytest.approx(0.05)


def test_two_batches_at_once_halve_the_wait():
    clock = Clock()
    here = admission(10_000, clock)
    enter(here, "x", 2000)
    for _ in range(500):
        clock.now += 0.2
        here.learn_batch("a", 8, 0.4)
    assert here.pictures_in(here.place("a", "x", 0)) == pytest.approx(2000 * 0.05 / 2, rel=0.01)


def test_learning_follows_slowly():
    here = admission()
    before = here.place("a", "x", 1).cost
    here.learn_batch("a", 1, 1.05)
    assert here.place("a", "x", 1).cost == pytest.approx(before + 0.2)


def test_text_waits_for_slots_only():
    here = admission()
    ask = {"model": "t", "client": "x", "sequences": 1, "tokens": 100}
    assert here.sequences_in(**ask, whole=False) == 0.0
    assert here.sequences_in(**ask, whole=True) == pytest.approx(1.0), "100 tokens at the pace of the warm-up"
    for _ in range(4):
        here.enter(Place("t", "x", 1, tokens=100))
    assert here.sequences_in(**ask, whole=False) == pytest.approx(0.25), "one of four slots is free after 1 s / 4"
    assert here.sequences_in(**ask, whole=True) == pytest.approx(1.25)


def test_tokens_asked_for_but_never_produced_shorten_the_wait():
    here = admission()
    for _ in range(4):
        here.enter(Place("t", "x", 1, tokens=100))
    for _ in range(100):
        here.learn_sequence("t", 100, 0.1)  # they stop early
    assert here.sequences_in("t", "x", 1, 100, whole=True) == pytest.approx(0.125, rel=0.01)


def test_a_new_client_waits_for_one_sequence_of_each_other():
    here = admission()
    for _ in range(40):
        here.enter(Place("t", "x", 1, tokens=100))
    assert here.sequences_in("t", "y", 1, 100, whole=False) < here.sequences_in("t", "x", 1, 100, whole=False)


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.integers(1, 9)), max_size=30), st.randoms())
def test_nothing_is_left_behind(jobs, order):
    here = admission(10_000)
    places = [enter(here, client, rows) for client, rows in jobs]
    order.shuffle(places)
    for place in places:
        here.leave(place)
    assert here.rows == 0
    assert here.backlog_seconds == 0.0


def test_an_encoder_has_a_speed_of_its_own():
    here = Admission(64, Clock())
    here.serve(BOTH)
    assert here.place("v", "x", 2).cost == pytest.approx(0.2)
    assert here.place(encoder_of("v"), "x", 2).cost == pytest.approx(0.04)
    here.learn_batch(encoder_of("v"), 1, 0.52)
    assert here.place(encoder_of("v"), "x", 1).cost == pytest.approx(0.02 + 0.2 * 0.5)
    assert here.place("v", "x", 2).cost == pytest.approx(0.2)


def test_what_takes_many_steps_is_priced_by_all_of_them():
    here = Admission(64, Clock())
    here.serve(dataclasses.replace(BOTH, inpaint_seconds=0.002))
    assert here.place(inpainter_of("v"), "x", 4, 400).cost == pytest.approx(0.8)
    here.learn_batch(inpainter_of("v"), 40, 40 * 0.012)  # ten steps of four rows
    assert here.place(inpainter_of("v"), "x", 4, 400).cost == pytest.approx(400 * 0.004)
    assert here.place("v", "x", 2).cost == pytest.approx(0.2)
