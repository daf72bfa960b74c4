"""Lanes share device seconds, not turns."""

from hypothesis import given
from hypothesis import strategies as st

from app.worker.schedule import Schedule


def test_nothing_is_ready():
    assert Schedule("a").next(set()) is None


def test_seconds_are_shared_whatever_a_turn_takes():
    """A lane whose turns take five times as long has a fifth of the turns."""
    schedule, cost, had = Schedule(["slow", "fast"]), {"slow": 5.0, "fast": 1.0}, {}
    for _ in range(600):
        name = schedule.next({"slow", "fast"})
        schedule.charge(name, cost[name])
        had[name] = had.get(name, 0) + cost[name]
    assert abs(had["slow"] - had["fast"]) <= 5.0


def turns_of(schedule, ready, count):
    turns = []
    for _ in range(count):
        turns.append(schedule.next(ready))
        schedule.charge(turns[-1], 1.0)
    return turns


def test_an_idle_lane_collects_no_credit():
    schedule = Schedule("ab")
    turns_of(schedule, {"a"}, 100)
    turns = turns_of(schedule, {"a", "b"}, 10)
    assert turns.count("a") == 5, "the newcomer starts level, it does not make up for 100 seconds of sleep"


def test_a_lane_that_wakes_while_no_other_waits_collects_no_credit_either():
    schedule = Schedule("ab")
    turns_of(schedule, {"a"}, 100)
    assert schedule.next(set()) is None
    turns_of(schedule, {"b"}, 1)
    turns = turns_of(schedule, {"a", "b"}, 10)
    assert turns.count("a") == 5, "b has not slept for 100 seconds to be served first for the next 100"


def test_a_lane_that_runs_does_not_sleep():
    """Its queue may be empty while its last batch is computed; that makes it no newcomer."""
    schedule = Schedule("ab")
    schedule.charge("a", 1.0)
    for _ in range(2):
        assert schedule.next({"b"}, running={"a"}) == "b"
        schedule.charge("b", 10.0)
    assert turns_of(schedule, {"a", "b"}, 19) == ["a"] * 19, "it has had 1 second where the other has had 20"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0.001, 10))))
def test_only_ready_lanes_are_named_and_no_lane_starves(events):
    schedule, ready = Schedule("abc"), set()
    since = dict.fromkeys("abc", 0.0)
    for name, busy, seconds in events:
        ready = ready | {name} if busy else ready - {name}
        since = {n: since[n] if n in ready else 0.0 for n in since}
        chosen = schedule.next(ready)
        assert (chosen is None) == (not ready)
        if chosen is not None:
            assert chosen in ready
            schedule.charge(chosen, seconds)
            since = {n: 0.0 if n == chosen else since[n] + seconds for n in since}
    assert all(waited <= 3 * 2 * 10.0 for n, waited in since.items() if n in ready)
