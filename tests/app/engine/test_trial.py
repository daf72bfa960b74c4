"""Suspects run one at a time, and only what ran alone is found guilty."""

from app.engine.trial import Trial


def test_one_at_a_time_in_the_order_of_arrival():
    trial = Trial()
    trial.open([3, 1, 2])
    assert trial.next() == 1
    trial.begin(1, b"a")
    assert trial.next() is None
    assert not trial.ended(2)
    assert trial.ended(1)
    assert not trial.ended(1)
    assert trial.next() == 2


def test_guilty_is_who_ran_alone():
    trial = Trial()
    trial.open([1, 2])
    assert trial.verdict({1}) is None, "it was not given to this worker alone"
    trial.begin(trial.next(), b"a")
    assert trial.verdict({1}) == b"a"
    assert trial.verdict({1, 2}) is None
    assert trial.verdict(set()) is None
    trial.close()
    assert trial.verdict({1}) is None, "after the trial it has company"


def test_a_sequence_passes_at_its_first_try_only():
    trial = Trial()
    trial.open([1])
    trial.begin(trial.next(), b"a")
    assert trial.passed(1)
    assert trial.running is None
    trial.open([1])
    trial.begin(trial.next(), b"a")
    assert not trial.passed(1)
    assert trial.running == 1
    assert trial.ended(1)
