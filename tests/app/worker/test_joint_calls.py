"""One call for all that wait for the same; each has its own result, and may leave without the others."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from app.worker.joint_calls import JointCalls

WAIT = 60.0


class Bench:
    """Joint calls that end when the test says so; one's own result is a list of the common one."""

    def __init__(self):
        self.calls, self.started = JointCalls(self.own), []

    def own(self, common):
        if common == "bad":
            raise ValueError("not for me")
        return [common]

    def start(self):
        self.started.append(Future())
        return self.started[-1]

    def join(self, key="k"):
        return self.calls.join(key, self.start)

    def end(self, result, call=0):
        self.started[call].set_running_or_notify_cancel()
        self.started[call].set_result(result)


def test_one_call_for_a_key_and_a_result_for_each():
    bench = Bench()
    first, second, other = bench.join(), bench.join(), bench.join("other")
    assert len(bench.started) == 2
    bench.end(1)
    assert first.result(0) == second.result(0) == [1]
    assert first.result(0) is not second.result(0)
    assert not other.done()
    bench.end(2, 1)
    assert other.result(0) == [2]
    assert not bench.calls._calls


def test_after_its_end_the_next_one_calls_again():
    bench = Bench()
    bench.join()
    bench.end(1)
    again = bench.join()
    bench.end(2, 1)
    assert again.result(0) == [2]


def test_failures_reach_all():
    bench = Bench()
    both = [bench.join(), bench.join()]
    bench.started[0].set_exception(KeyError("gone"))
    assert [type(future.exception(0)) for future in both] == [KeyError, KeyError]
    own = bench.join()
    bench.end("bad", 1)
    with pytest.raises(ValueError, match="not for me"):
        own.result(0)


def test_a_call_that_is_refused_at_once():
    bench, refused = Bench(), Future()
    refused.set_exception(KeyError("full"))
    assert isinstance(bench.calls.join("k", lambda: refused).exception(0), KeyError)
    bench.join()
    assert len(bench.started) == 1


def test_who_leaves_takes_nothing_from_the_others():
    bench = Bench()
    first, second = bench.join(), bench.join()
    assert first.cancel()
    bench.end(1)
    assert second.result(0) == [1]


def test_when_all_have_left_a_call_that_has_not_begun_is_given_up():
    bench = Bench()
    for future in (bench.join(), bench.join()):
        assert not bench.started[0].cancelled()
        assert future.cancel()
    assert bench.started[0].cancelled()
    fresh = bench.join()
    bench.end(2, 1)
    assert fresh.result(0) == [2]


def test_when_all_have_left_a_call_that_has_begun_is_there_for_the_next():
    bench = Bench()
    left = bench.join()
    bench.started[0].set_running_or_notify_cancel()
    assert left.cancel()
    late = bench.join()
    bench.started[0].set_result(1)
    assert late.result(0) == [1]
    assert len(bench.started) == 1


def test_whatever_comes_leaves_and_ends_at_once_nobody_is_forgotten():
    """Four threads join, and leave every other time, while calls end in a thread of their own."""
    with ThreadPoolExecutor(1) as pool:
        calls, barrier = JointCalls(lambda common: [common]), threading.Barrier(4)

        def visit(number):
            barrier.wait(WAIT)
            for i in range(300):
                future = calls.join(i % 3, lambda: pool.submit(int, 7))
                if (i + number) % 2 and future.cancel():
                    continue
                assert future.result(WAIT) == [7]
            return True

        with ThreadPoolExecutor(4) as visitors:
            assert all(visitors.map(visit, range(4)))
    assert not calls._calls
