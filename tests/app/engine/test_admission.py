"""The queue bound holds, and what a refused client is told follows from what was learned."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.admission import Admission
from app.errors import Overloaded


def test_bound_counts_rows_over_all_models():
    admission = Admission(10)
    admission.admit("a", 6)
    admission.admit("b", 4)
    assert (admission.rows, admission.depth("a"), admission.depth("b"), admission.depth("c")) == (10, 6, 4, 0)
    with pytest.raises(Overloaded, match="10 pictures and sequences are in flight; 1 more"):
        admission.admit("a", 1)
    assert admission.rows == 10, "a refused job is not counted"
    admission.release("b", 4)
    admission.admit("a", 4)


def test_retry_after_is_half_of_the_predicted_backlog():
    admission = Admission(100)
    admission.learn("a", 0.1)
    admission.learn("b", 0.02)
    admission.admit("a", 50)
    admission.admit("b", 50)
    assert admission.backlog_seconds == pytest.approx(6.0)
    with pytest.raises(Overloaded) as caught:
        admission.admit("a", 1)
    assert caught.value.retry_after == pytest.approx(3.0)


def test_retry_after_is_never_zero():
    admission = Admission(1)
    with pytest.raises(Overloaded) as caught:
        admission.admit("a", 2)
    assert caught.value.retry_after > 0


def test_learning_follows_slowly():
    admission = Admission(10)
    admission.admit("a", 1)
    assert admission.backlog_seconds == 0
    admission.learn("a", 1.0)
    assert admission.backlog_seconds == pytest.approx(1.0)
    admission.learn("a", 2.0)
    assert admission.backlog_seconds == pytest.approx(1.2)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 64))))
def test_bound_is_never_exceeded_and_all_comes_back(jobs):
    admission, admitted = Admission(100), []
    for model, rows in jobs:
        try:
            admission.admit(model, rows)
            admitted.append((model, rows))
        except Overloaded:
            assert admission.rows + rows > 100
        assert admission.rows == sum(rows for _, rows in admitted) <= 100
    for model, rows in admitted:
        admission.release(model, rows)
    assert admission.rows == 0
