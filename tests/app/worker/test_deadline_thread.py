"""Work that hangs fails for whoever waits, holds up nothing that comes after it, and is bounded in number."""

import threading
from concurrent.futures import CancelledError

import pytest

from app.worker.deadline_thread import DeadlineThread

SOON = 0.05  # seconds: a deadline that passes while something hangs
NEVER = 1000.0
WAIT = 60.0


class Refused(Exception):
    pass


class Late(Exception):
    pass


@pytest.fixture
def gate():
    """What hangs, hangs until this is set; at the end of the test at the latest."""
    gate = threading.Event()
    yield gate
    gate.set()


def hanging(gate):
    """Work that hangs, and an event that is set once it has begun."""
    begun = threading.Event()

    def work():
        begun.set()
        assert gate.wait(WAIT)
        return "late"

    return work, begun


def test_calls_one_after_another_in_one_thread_of_its_own():
    thread = DeadlineThread("t", NEVER, 100, 1, Refused, Late)
    order = []
    futures = [thread.submit(lambda i=i: order.append(i) or threading.get_ident()) for i in range(20)]
    assert len({future.result(WAIT) for future in futures} | {threading.get_ident()}) == 2
    assert order == list(range(20))
    thread.close()


def test_no_thread_before_the_first_call_and_a_daemon_after():
    thread = DeadlineThread("only-here", NEVER, 1, 1, Refused, Late)
    assert not [t for t in threading.enumerate() if t.name == "only-here"]
    thread.submit(lambda: None).result(WAIT)
    (started,) = [t for t in threading.enumerate() if t.name == "only-here"]
    assert started.daemon
    thread.close()
    started.join(WAIT)
    assert not started.is_alive()


@pytest.mark.parametrize("error", [ValueError("x"), BaseException("a panic")])
def test_what_is_raised_comes_out_and_the_thread_goes_on(error):
    thread = DeadlineThread("t", NEVER, 2, 1, Refused, Late)

    def fail():
        raise error

    assert thread.submit(fail).exception(WAIT) is error
    assert thread.submit(lambda: 5).result(WAIT) == 5
    thread.close()


def test_a_bounded_number_waits(gate):
    thread = DeadlineThread("t", NEVER, 2, 1, Refused, Late)
    work, begun = hanging(gate)
    first = thread.submit(work)
    assert begun.wait(WAIT)
    waiting = [thread.submit(lambda: 1) for _ in range(2)]
    with pytest.raises(Refused, match="too many are waiting"):
        thread.submit(lambda: 1).result(WAIT)
    gate.set()
    assert [first.result(WAIT), *(future.result(WAIT) for future in waiting)] == ["late", 1, 1]
    thread.close()


def test_a_cancelled_call_is_never_made(gate):
    thread = DeadlineThread("t", NEVER, 2, 1, Refused, Late)
    work, begun = hanging(gate)
    thread.submit(work)
    assert begun.wait(WAIT)
    called = []
    cancelled = thread.submit(lambda: called.append(1))
    assert cancelled.cancel()
    last = thread.submit(lambda: 2)
    gate.set()
    assert last.result(WAIT) == 2
    assert not called
    with pytest.raises(CancelledError):
        cancelled.result(WAIT)
    thread.close()


def test_cancelled_calls_give_their_places_back(gate):
    thread = DeadlineThread("t", NEVER, 2, 1, Refused, Late)
    work, begun = hanging(gate)
    thread.submit(work)
    assert begun.wait(WAIT)
    for _ in range(20):
        left = [thread.submit(lambda: 1) for _ in range(2)]
        assert all(future.cancel() for future in left)
    kept = [thread.submit(lambda i=i: i) for i in range(2)]
    with pytest.raises(Refused, match="too many are waiting"):
        thread.submit(lambda: 1).result(WAIT)
    gate.set()
    assert [future.result(WAIT) for future in kept] == [0, 1]
    thread.close()


def test_whoever_is_told_of_an_outcome_may_submit_from_another_thread(gate):
    """A callback waits for somebody who needs the queue meanwhile."""
    thread = DeadlineThread("t", NEVER, 2, 1, Refused, Late)
    work, begun = hanging(gate)
    first, submitted = thread.submit(work), threading.Event()
    first.add_done_callback(lambda _: submitted.wait(WAIT) or pytest.fail("the queue is locked"))
    assert begun.wait(WAIT)
    gate.set()
    assert first.result(WAIT) == "late"
    second = thread.submit(lambda: 2)
    submitted.set()
    assert second.result(WAIT) == 2
    thread.close()


def test_what_hangs_is_refused_and_the_next_goes_on_without_it(gate):
    thread = DeadlineThread("t", SOON, 4, 2, Refused, Late)
    work, _ = hanging(gate)
    hung, after = thread.submit(work), thread.submit(lambda: 7)
    with pytest.raises(Late, match="not done within"):
        hung.result(WAIT)
    assert after.result(WAIT) == 7
    gate.set()
    thread.close()


def test_what_is_overdue_is_told_why_before_it_is_refused(gate):
    thread = DeadlineThread("t", SOON, 4, 2, Refused, Late)
    told, quick = [], []
    hung = thread.submit(hanging(gate)[0], lambda reason: told.append((reason, hung.done())))
    with pytest.raises(Late) as refused:
        hung.result(WAIT)
    assert told == [(str(refused.value), False)]
    assert thread.submit(lambda: 7, quick.append).result(WAIT) == 7
    gate.set()
    thread.close()
    assert not quick


def test_when_too_many_hang_all_are_refused_until_one_ends(gate):
    thread = DeadlineThread("both", SOON, 4, 2, Refused, Late)
    futures = [thread.submit(hanging(gate)[0]) for _ in range(2)]
    waiting = thread.submit(lambda: 7)
    for future in futures:
        with pytest.raises(Late, match="not done within"):
            future.result(WAIT)
    with pytest.raises(Refused, match="too many are overdue"):
        waiting.result(WAIT)
    with pytest.raises(Refused, match="too many are overdue"):
        thread.submit(lambda: 8).result(WAIT)
    hung = [t for t in threading.enumerate() if t.name == "both"]
    assert len(hung) == 2
    gate.set()
    hung[0].join(WAIT)
    hung[1].join(WAIT)
    assert thread.submit(lambda: 9).result(WAIT) == 9
    thread.close()


def test_closing_refuses_what_waits_and_what_comes(gate):
    thread = DeadlineThread("t", NEVER, 4, 1, Refused, Late)
    work, begun = hanging(gate)
    running, waiting = thread.submit(work), thread.submit(lambda: 1)
    assert begun.wait(WAIT)
    thread.close()
    for future in (waiting, thread.submit(lambda: 1)):
        with pytest.raises(Refused, match="closed"):
            future.result(WAIT)
    gate.set()
    assert running.result(WAIT) == "late"
