"""Requests are remembered by what they ask for, for a while, and not without bound."""

from app.engine import blame
from app.engine.blame import Blame


def test_remembered_until_its_time_is_over():
    now = [0.0]
    remembered = Blame(lambda: now[0])
    remembered.put(b"bad")
    assert remembered.holds(lambda: b"bad")
    assert not remembered.holds(lambda: b"good")
    now[0] = blame.SECONDS
    assert not remembered.holds(lambda: b"bad")


def test_nothing_is_asked_while_there_is_nothing_to_remember():
    def never():
        raise AssertionError("costs the hot path")

    assert not Blame().holds(never)


def test_the_oldest_are_forgotten_first(monkeypatch):
    monkeypatch.setattr(blame, "MOST", 2)
    remembered = Blame()
    for origin in (b"a", b"b", b"a", b"c"):
        remembered.put(origin)
    assert [remembered.holds(lambda o=o: o) for o in (b"a", b"b", b"c")] == [True, False, True]
