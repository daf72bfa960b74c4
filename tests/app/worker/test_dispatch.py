"""What runs beside what: batches of pictures beside each other, ticks of text one at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.jobs import LatentJob
from app.worker.dispatch import Dispatcher, unmarked
from app.worker.dynamic import BESIDE_SECONDS, DynamicBatcher

BESIDE_ROWS = 8  # that a second batch pays for, at the costs of `BlackRunner`


class BlackRunner:
    """Paints every picture black; each costs a little more than an eighth of what a second batch must have."""

    buckets = (1, 2, 4, 8)
    seconds = tuple(size * 1.01 * BESIDE_SECONDS / BESIDE_ROWS for size in buckets)

    def bucket_for(self, rows):
        return next(size for size in self.buckets if size >= rows)

    def compute(self, latents, labels):
        return np.zeros((len(labels), 1, 1, 1), np.uint8), np.ones(len(labels), bool)


class TextLane:
    """A lane whose ticks keep state; what is said to it must never come while one of them runs."""

    exclusive = True

    def __init__(self, waiting=1):
        self.waiting, self.running, self.heard = waiting, 0, []

    def ready(self, running):
        return True  # that it runs alone is the dispatcher's business

    def begin(self):
        assert self.running == 0, "two ticks at once"
        self.running += 1
        return lambda mark: None

    def hear(self, something):
        assert self.running == 0, "said during a tick"
        self.heard.append(something)


def pictures(rows=0, *, alone=False):
    lane = DynamicBatcher(BlackRunner(), alone=alone)
    if rows:
        submit(lane, rows)
    return lane


def submit(lane, rows):
    lane.submit(submit.number, LatentJob("echo", np.zeros((rows, 1), np.float32), np.zeros(rows, np.int64)))
    submit.number += 1


submit.number = 1


def names(*ticks):
    return [tick and tick.name for tick in ticks]


def end(dispatcher, lanes, tick, seconds=1.0):
    """What the loop does when a tick is over."""
    if isinstance(lanes[tick.name], TextLane):
        lanes[tick.name].running -= 1
    return dispatcher.finish(tick, seconds)


def test_nothing_waits():
    assert Dispatcher({}).begin() is None
    assert Dispatcher({"a": pictures(), "b": TextLane(waiting=0)}).begin() is None


@pytest.mark.parametrize("rows", [1, BESIDE_ROWS - 1, BESIDE_ROWS, BESIDE_ROWS + 1])
def test_a_second_batch_runs_beside_the_first_from_8_rows_on(rows):
    lane = pictures(1)
    dispatcher = Dispatcher({"a": lane})
    first = dispatcher.begin()
    assert first.name == "a"
    submit(lane, rows)
    second = dispatcher.begin()
    assert (second is not None) == (rows >= BESIDE_ROWS)
    assert lane.waiting == (0 if rows == BESIDE_ROWS else 1 if rows > BESIDE_ROWS else rows)


def test_few_rows_wait_for_the_batch_that_runs():
    lane = pictures(1)
    dispatcher = Dispatcher({"a": lane})
    first = dispatcher.begin()
    submit(lane, 4)
    assert dispatcher.begin() is None
    assert not dispatcher.finish(first, 1.0)
    assert dispatcher.begin().run(unmarked).rows == 4


def test_many_batches_run_at_once():
    lane = pictures(8 * BESIDE_ROWS)
    dispatcher = Dispatcher({"a": lane})
    ticks = [dispatcher.begin() for _ in range(8)]
    assert names(*ticks) == ["a"] * 8
    assert dispatcher.begin() is None
    results = [tick.run(unmarked) for tick in reversed(ticks)]
    rows = sorted(part.offset + row for result in results for part in result.parts for row in range(part.count))
    assert rows == list(range(8 * BESIDE_ROWS)), "each row in one batch, whatever order they run in"


def test_a_model_that_takes_all_threads_runs_one_batch_at_a_time():
    lane = pictures(64, alone=True)
    dispatcher = Dispatcher({"a": lane})
    first = dispatcher.begin()
    assert dispatcher.begin() is None
    dispatcher.finish(first, 1.0)
    assert dispatcher.begin() is not None


def test_one_row_of_another_lane_is_enough():
    dispatcher = Dispatcher({"a": pictures(1), "b": pictures(1), "c": TextLane()})
    assert sorted(names(*(dispatcher.begin() for _ in range(3)))) == ["a", "b", "c"]


def test_a_lane_whose_work_has_expired_is_passed_over():
    """The next lane has its turn at once, for nobody will ask again until something comes."""
    expired, lanes = LatentJob("a", np.zeros((3, 1), np.float32), np.zeros(3, np.int64), deadline=0.0), {}
    for name in "abc":
        lanes[name] = pictures()
        lanes[name].submit(1, expired)
    submit(lanes["b"], 1)
    dispatcher = Dispatcher(lanes)
    assert names(dispatcher.begin(), dispatcher.begin()) == ["b", None]
    assert [lane.waiting for lane in lanes.values()] == [0, 0, 0]


def test_an_exclusive_lane_never_runs_twice():
    lanes = {"text": TextLane(waiting=100)}
    dispatcher = Dispatcher(lanes)
    tick = dispatcher.begin()
    assert dispatcher.begin() is None
    end(dispatcher, lanes, tick)
    assert names(dispatcher.begin(), dispatcher.begin()) == ["text", None]


def test_what_is_said_during_a_tick_is_heard_after_it_in_order():
    lanes = {"text": TextLane(), "other": TextLane(), "pictures": pictures(1)}
    lane, dispatcher = lanes["text"], Dispatcher(lanes)
    assert dispatcher.say("text", lambda: lane.hear(0)), "nothing runs: at once"
    ticks = {tick.name: tick for tick in (dispatcher.begin(), dispatcher.begin(), dispatcher.begin())}
    for something in (1, 2):
        assert not dispatcher.say("text", lambda something=something: lane.hear(something))
    assert (dispatcher.has_unsaid("text"), dispatcher.has_unsaid("other")) == (True, False)
    assert not end(dispatcher, lanes, ticks["other"]), "the end of another lane's tick is not the one to wait for"
    assert lane.heard == [0]
    assert end(dispatcher, lanes, ticks["text"])
    assert lane.heard == [0, 1, 2]
    assert not dispatcher.has_unsaid("text")
    assert dispatcher.say("text", lambda: lane.hear(3))
    assert lane.heard == [0, 1, 2, 3], "once each"


def test_other_lanes_hear_at_once_even_while_they_run():
    dispatcher, heard = Dispatcher({"a": pictures(1)}), []
    dispatcher.begin()
    assert dispatcher.say("a", lambda: heard.append(1))
    assert heard == [1]
    assert not dispatcher.has_unsaid("a")


def test_seconds_are_charged_to_the_lane_that_had_them():
    lanes = {"slow": TextLane(), "fast": TextLane()}
    dispatcher, turns = Dispatcher(lanes), []
    for _ in range(60):
        tick = dispatcher.begin()
        turns.append(tick.name)
        end(dispatcher, lanes, tick, 5.0 if tick.name == "slow" else 1.0)
    assert turns.count("fast") == pytest.approx(5 * turns.count("slow"), abs=6)


def test_a_lane_whose_queue_is_empty_while_its_batch_runs_does_not_sleep():
    """Its batch takes 1 second while the other lane has 30, so it may catch up: it is no newcomer."""
    lanes = {"pictures": pictures(1), "text": TextLane(waiting=0)}
    dispatcher, turns = Dispatcher(lanes), []
    batch = dispatcher.begin()
    lanes["text"].waiting = 1
    for _ in range(3):
        end(dispatcher, lanes, dispatcher.begin(), 10.0)
    dispatcher.finish(batch, 1.0)
    submit(lanes["pictures"], 1000)
    for _ in range(28):
        tick = dispatcher.begin()
        turns.append(tick.name)
        end(dispatcher, lanes, tick)
    assert turns == ["pictures"] * 28


@given(st.lists(st.tuples(st.sampled_from(["submit", "begin", "finish", "say"]), st.integers(0, 20)), max_size=80))
def test_any_order_of_events(events):
    """No exclusive lane twice, nothing said during a tick, nothing lost; `TextLane` asserts the first two."""
    lanes = {"text": TextLane(waiting=0), "pictures": pictures()}
    dispatcher, ticks, said, submitted, computed = Dispatcher(lanes), [], [], 0, 0
    for event, number in events:
        if event == "submit":
            submit(lanes["pictures"], number + 1)
            submitted += number + 1
            lanes["text"].waiting = number % 2
        elif event == "say":
            dispatcher.say("text", lambda number=number: lanes["text"].hear(number))
            said.append(number)
        elif event == "begin" and (tick := dispatcher.begin()) is not None:
            ticks.append(tick)
        elif event == "finish" and ticks:
            tick = ticks.pop(number % len(ticks))
            computed += tick.run(unmarked).rows if tick.name == "pictures" else 0
            end(dispatcher, lanes, tick, number)
        assert dispatcher.has_unsaid("text") == (len(lanes["text"].heard) < len(said))
    lanes["text"].waiting = 0
    while ticks or (tick := dispatcher.begin()) is not None:
        tick = ticks.pop() if ticks else tick
        computed += tick.run(unmarked).rows if tick.name == "pictures" else 0
        end(dispatcher, lanes, tick, 1.0)
    assert (computed, lanes["text"].heard) == (submitted, said)
