"""Lanes share device seconds, not turns."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from app.worker.schedule import Schedule


@dataclass
class Lane:
    waiting: int = 0


def test_nothing_waits():
    assert Schedule("a").next() is None


def test_seconds_are_shared_whatever_a_turn_takes():
    """A lane whose turns take five times as long has a fifth of the turns."""
    schedule, cost, had = Schedule({"slow": Lane(1), "fast": Lane(1)}), {"slow": 5.0, "fast": 1.0}, {}
    for _ in range(600):
        name = schedule.next()
        schedule.charge(name, cost[name])
        had[name] = had.get(name, 0) + cost[name]
    assert abs(had["slow"] - had["fast"]) <= 5.0


def test_an_idle_lane_collects_no_credit():
    a, b = Lane(1), Lane(0)
    schedule = Schedule({"a": a, "b": b})
    for _ in range(100):
        schedule.charge(schedule.next(), 1.0)
    b.waiting = 1
    turns = []
    for _ in range(10):
        turns.append(schedule.next())
        schedule.charge(turns[-1], 1.0)
    assert turns.count("a") == 5, "the newcomer starts level, it does not make up for 100 seconds of sleep"


def test_a_lane_that_wakes_while_no_other_waits_collects_no_credit_either():
    a, b = Lane(1), Lane(0)
    schedule = Schedule({"a": a, "b": b})
    for _ in range(100):
        schedule.charge(schedule.next(), 1.0)
    a.waiting = 0
    assert schedule.next() is None
    b.waiting = 1
    schedule.charge(schedule.next(), 1.0)
    a.waiting = 1
    turns = []
    for _ in range(10):
        turns.append(schedule.next())
        schedule.charge(turns[-1], 1.0)
    assert turns.count("a") == 5, "b has not slept for 100 seconds to be served first for the next 100"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0.001, 10))))
def test_only_waiting_lanes_are_named_and_no_lane_starves(events):
    lanes = {name: Lane() for name in "abc"}
    schedule = Schedule(lanes)
    since = dict.fromkeys("abc", 0.0)
    for name, busy, seconds in events:
        lanes[name].waiting = int(busy)
        since = {n: since[n] if lanes[n].waiting else 0.0 for n in lanes}
        chosen = schedule.next()
        assert (chosen is None) == (not any(lane.waiting for lane in lanes.values()))
        if chosen is not None:
            assert lanes[chosen].waiting
            schedule.charge(chosen, seconds)
            since = {n: 0.0 if n == chosen else since[n] + seconds for n in since}
    assert all(waited <= 3 * 2 * 10.0 for n, waited in since.items() if lanes[n].waiting)
