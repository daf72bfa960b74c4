"""A free slot goes to the client that holds the fewest, and within it to such a request; one is kept for short ones."""

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.jobs import SequenceJob
from app.worker.slot_queue import RESERVING_SLOTS, SHORT, SlotQueue, is_short

PASSED = 0.0  # a deadline that no machine's clock has still before it


@dataclass
class Waiter:
    number: int
    job: SequenceJob
    arrived: float
    request: int


class Slots:
    """A queue and the slots before which it stands."""

    def __init__(self, slots=4):
        self.count, self.queue, self.running, self.arrived = slots, SlotQueue(slots), [], 0

    def add(self, number, client="", *, request=0, tokens=SHORT, deadline=math.inf):
        self.arrived += 1
        job = SequenceJob("m", (1,), tokens, 0, request=request, client=client, deadline=deadline)
        self.queue.add(Waiter(number, job, self.arrived, request or number))
        return self

    def fill(self):
        """Give slots away for as long as somebody may have one; who got one."""
        got = []
        while len(self.running) < self.count and (chosen := self.queue.upcoming(self.running)) is not None:
            self.queue.take(chosen)
            self.running.append(chosen)
            got.append(chosen.number)
        return got

    def end(self, *numbers):
        self.running = [waiter for waiter in self.running if waiter.number not in numbers]
        return self

    def held(self, client):
        return sum(waiter.job.client == client for waiter in self.running)


def test_first_come_first_served():
    slots = Slots(4)
    for number in range(1, 7):
        slots.add(number)
    assert slots.fill() == [1, 2, 3, 4]
    assert slots.end(2).fill() == [5]
    assert len(slots.queue) == 1


def test_a_lone_client_may_hold_all_slots():
    slots = Slots(8)
    for number in range(1, 20):
        slots.add(number, "a")
    assert len(slots.fill()) == 8


def test_two_clients_that_wait_share_the_slots():
    slots = Slots(8)
    for number in range(1, 20):
        slots.add(number, "a")
    for number in range(21, 40):
        slots.add(number, "b")
    slots.fill()
    assert (slots.held("a"), slots.held("b")) == (4, 4)


def test_who_holds_all_gives_up_slots_as_they_end():
    """No sequence is stopped half way; but whatever ends goes to the newcomer until both hold the same."""
    slots = Slots(8)
    for number in range(1, 40):
        slots.add(number, "a")
    slots.fill()
    for number in range(41, 60):
        slots.add(number, "b")
    for number in (1, 2, 3, 4):
        assert slots.end(number).fill()[0] > 40
    assert (slots.held("a"), slots.held("b")) == (4, 4)
    assert slots.end(5).fill() == [9], "and from then on each follows its own"
    assert slots.end(41).fill() == [45]


def test_what_one_does_not_ask_for_the_others_share():
    slots = Slots(8).add(1, "modest")
    for number in range(11, 31):
        slots.add(number, "ab"[number % 2])
    slots.fill()
    assert (slots.held("modest"), sorted((slots.held("a"), slots.held("b")))) == (1, [3, 4])


def test_with_one_slot_clients_take_turns():
    """Though one of them came first with all of its sequences."""
    slots, order = Slots(1), []
    for number in range(1, 6):
        slots.add(number, "a")
    for number in range(11, 14):
        slots.add(number, "b", tokens=SHORT + 1)
    while len(slots.queue):
        order += slots.fill()
        slots.end(*order)
    assert order == [1, 11, 2, 12, 3, 13, 4, 5]


def test_within_a_client_requests_take_turns():
    slots = Slots(4)
    for number in (1, 2, 3, 4):
        slots.add(number, request=100)
    for number in (5, 6):
        slots.add(number, request=200)
    assert slots.fill() == [1, 5, 2, 6]


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 8, 32])
def test_no_request_holds_more_than_three_quarters(slots):
    bench = Slots(slots)
    for number in range(1, 100):
        bench.add(number, request=7)
    assert len(bench.fill()) == max(1, slots - slots // 4)


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 8, 32])
def test_one_slot_is_kept_for_short_ones(slots):
    bench = Slots(slots)
    for number in range(1, 100):
        bench.add(number, tokens=SHORT + 1)
    long = slots - 1 if slots >= RESERVING_SLOTS else slots
    assert len(bench.fill()) == long
    bench.add(500)
    assert bench.fill() == ([500] if slots > long else [])


def test_a_short_one_in_any_slot_leaves_the_others_to_long_ones():
    bench = Slots(4).add(1)
    for number in range(2, 9):
        bench.add(number, tokens=1000)
    assert bench.fill() == [1, 2, 3, 4]
    assert bench.end(1).fill() == []
    assert bench.end(2).fill() == [5]


def test_the_prompt_counts_when_it_is_run_token_by_token():
    prompt = tuple(range(SHORT))
    assert is_short(SequenceJob("m", prompt, 1, 0))
    assert is_short(SequenceJob("m", prompt, 1, 0, score_prompt=True))
    assert not is_short(SequenceJob("m", prompt, 2, 0, score_prompt=True))


def test_a_request_may_have_short_and_long_sequences():
    bench = Slots(4)
    for number, tokens in enumerate((900, 5, 900, 5, 900, 5), 1):
        bench.add(number, request=9, tokens=tokens)
    assert bench.fill() == [1, 2, 3], "three quarters"
    assert bench.end(1, 2, 3).fill() == [4, 5, 6]
    assert len(bench.queue) == 0


def test_what_has_expired_is_dropped():
    bench = Slots(4)
    for number in range(1, 101):
        bench.add(number, "a", deadline=math.inf if number in (50, 99) else PASSED)
    assert bench.fill() == [50, 99]
    assert len(bench.queue) == 0
    bench.add(200, deadline=PASSED)
    assert bench.fill() == []
    assert len(bench.queue) == 0
    assert not bench.queue._clients


def test_who_leaves():
    bench = Slots(1).add(1, "a", request=5).add(2, "a", request=5).add(3, "a", request=5, tokens=900).add(4, "b")
    bench.queue.remove({1, 3, 77})
    assert len(bench.queue) == 2
    assert bench.fill() == [2]
    bench.queue.remove({4})
    assert len(bench.queue) == 0
    assert not bench.queue._clients
    assert bench.end(2).fill() == []


events = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"), st.sampled_from("abcd"), st.integers(1, 6), st.sampled_from([1, SHORT, SHORT + 1, 999]),
            st.sampled_from([math.inf, math.inf, math.inf, PASSED]),
        ),
        st.tuples(st.just("end"), st.integers(0, 40)),
        st.tuples(st.just("leave"), st.sets(st.integers(0, 60), max_size=5)),
    ),
    max_size=60,
)  # fmt: skip


@given(st.sampled_from([1, 3, 4, 7, 8]), events)
def test_whatever_happens(count, events):
    """Nobody gets a slot who holds more than another that waits, none is free in vain, and all are accounted for."""
    bench, waiting, number = Slots(count), {}, 0
    long_slots = count - 1 if count >= RESERVING_SLOTS else count
    for kind, *rest in events:
        if kind == "add":
            number += 1
            client, request, tokens, deadline = rest
            bench.add(number, client, request=100 * ord(client) + request, tokens=tokens, deadline=deadline)
            waiting[number] = (client, 100 * ord(client) + request, tokens, deadline)
        elif kind == "leave":
            bench.queue.remove(rest[0])
            waiting = {n: own for n, own in waiting.items() if n not in rest[0]}
        elif bench.running:
            bench.end(bench.running[rest[0] % len(bench.running)].number)
        while len(bench.running) < count:
            chosen = bench.queue.upcoming(bench.running)
            may = {n: own for n, own in waiting.items() if may_run(bench, own, long_slots)}
            assert (chosen is None) == (not may), "no slot stays free in vain"
            if chosen is None:
                break
            least = min(bench.held(client) for client, *_ in may.values())
            assert bench.held(chosen.job.client) == least
            assert chosen.number in may
            bench.queue.take(chosen)
            bench.running.append(chosen)
            del waiting[chosen.number]
            assert sum(not is_short(waiter.job) for waiter in bench.running) <= long_slots
        assert set(bench.queue._waiting) <= set(waiting)
        assert all(deadline == PASSED for n, (*_, deadline) in waiting.items() if n not in bench.queue._waiting)
    assert bench.queue._short == sum(is_short(waiter.job) for waiter in bench.queue._waiting.values())


def may_run(bench, own, long_slots):
    """Whether a slot is for such a sequence now."""
    _, request, tokens, deadline = own
    share = max(1, bench.count - bench.count // 4)
    long = sum(not is_short(waiter.job) for waiter in bench.running)
    return (
        deadline > PASSED
        and sum(waiter.request == request for waiter in bench.running) < share
        and (tokens <= SHORT or long < long_slots)
    )
