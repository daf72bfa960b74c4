"""Who comes back when told goes first; times are told one after the other; nothing grows without bound."""

from app.engine import promises
from app.engine.promises import GRACE, LONGEST, Promises


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_times_follow_each_other_at_the_pace_of_the_work():
    told = Promises(Clock())
    assert [round(told.make(i, 1.0, 0.5), 3) for i in range(4)] == [1.0, 1.5, 2.0, 2.5]


def test_kept_once_and_not_before_its_time():
    clock = Clock()
    told = Promises(clock)
    assert not told
    told.make("a", 1.0, 0.5)
    assert told
    clock.now += 0.9
    assert not told.redeem("a")
    clock.now += 0.2
    assert not told.redeem("b")
    assert told.redeem("a")
    assert not told.redeem("a")


def test_the_same_request_twice_has_two_promises():
    clock = Clock()
    told = Promises(clock)
    for _ in range(2):
        told.make("a", 1.0, 0.1)
    clock.now += 2
    assert [told.redeem("a") for _ in range(3)] == [True, True, False]


def test_over_after_its_grace():
    clock = Clock()
    told = Promises(clock)
    told.make("a", 1.0, 0.5)
    clock.now += 1.1 + GRACE
    assert not told.redeem("a")
    assert not told


def test_those_who_never_come_back_keep_others_waiting_less_and_less():
    clock = Clock()
    told = Promises(clock)
    for i in range(2000):
        told.make(i, 0.0, 0.01)
        clock.now += 0.5
    first = told.make("a", 0.0, 1.0)
    assert told.make("b", 0.0, 1.0) - first < 0.1


def test_bounds(monkeypatch):
    monkeypatch.setattr(promises, "MOST", 3)
    clock = Clock()
    told = Promises(clock)
    assert told.make("far", 1e9, 1.0) <= LONGEST
    for i in range(10):
        assert told.make(i, 0.0, 100.0) <= LONGEST
    clock.now += LONGEST
    assert sum(told.redeem(i) for i in range(10)) == 2
