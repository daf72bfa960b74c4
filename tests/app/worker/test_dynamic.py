"""No row is lost, doubled or swapped, whatever is submitted, cancelled or poisoned, and nobody starves."""

import gc
import math
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.engine.jobs import LatentJob
from app.worker.dispatch import unmarked
from app.worker.dynamic import BESIDE_SECONDS, OVERLAP_ROWS, DynamicBatcher
from app.worker.row_queue import TURN_ROWS

RAISE, NAN, SHORT_OF_MEMORY, OUT_OF_MEMORY = 1000.0, 2000.0, 3000.0, 4000.0
FITS = 4  # rows of a batch that holds a `SHORT_OF_MEMORY`
PASSED = 0.0  # a deadline that no machine's clock has still before it


class EchoRunner:
    """Paints the two numbers of a latent and the label as a picture of 1x1x3."""

    def __init__(self, buckets=(4, 8, 16), seconds=None):
        self.buckets = buckets
        self.seconds = seconds or tuple(float(size) for size in buckets)
        self.batches = []

    def bucket_for(self, rows):
        return next(size for size in self.buckets if size >= rows)

    def compute(self, latents, labels):
        assert 1 <= len(labels) <= self.buckets[-1]
        self.batches.append(len(labels))
        if (latents == RAISE).any():
            raise ValueError("a poisoned latent")
        size = self.bucket_for(len(labels))
        if (latents == OUT_OF_MEMORY).any() or (size > FITS and (latents == SHORT_OF_MEMORY).any()):
            raise MemoryError("no 20 GiB of memory at /secret/path")
        pictures = np.stack([latents[:, 0], latents[:, 1], labels], axis=1).astype(np.uint8)[:, None, None]
        return pictures, ~(latents == NAN).any(axis=1)


def job(number, rows, **poison):
    latents = np.array([[number, i] for i in range(rows)], np.float32)
    for row, value in poison.get("poison", {}).items():
        latents[row] = value
    fields = {name: value for name, value in poison.items() if name != "poison"}
    return LatentJob("echo", latents, np.arange(rows, dtype=np.int64) % 10, **fields)


def expected(number, start, count):
    return [[number, i, i % 10] for i in range(start, start + count)]


def good_rows(result):
    """Each good part with its pictures' three numbers."""
    start = 0
    for part in result.parts:
        count = 0 if part.error else part.count
        yield part, result.made[start : start + count].reshape(-1, 3).tolist() if count else []
        start += count
    assert start == len(result.made)


def drain(batcher):
    """Tick until nothing waits; rows and errors by job."""
    rows, errors = {}, {}
    while batcher.waiting:
        for part, pictures in good_rows(batcher.begin()(unmarked)):
            if part.error:
                errors[part.job] = part.error
            else:
                assert pictures == expected(part.job, part.offset, part.count)
                rows.setdefault(part.job, []).extend(range(part.offset, part.offset + part.count))
    return rows, errors


def test_a_lone_row_is_computed_at_once():
    runner = EchoRunner()
    batcher = DynamicBatcher(runner)
    batcher.submit(1, job(1, 1))
    result = batcher.begin()(unmarked)
    assert (result.rows, result.padding, batcher.waiting) == (1, 3, 0)
    assert [pictures for _, pictures in good_rows(result)] == [expected(1, 0, 1)]
    assert result.waited[0] >= 0
    assert result.seconds >= 0


@pytest.mark.parametrize(("rows", "batch"), [(1, 1), (8, 8), (9, 8), (16, 8), (17, 9), (30, 15), (32, 16), (64, 16)])
def test_half_is_left_for_the_next_batch(rows, batch):
    """So that the device works while answers are being written, and never more than the largest bucket."""
    batcher = DynamicBatcher(EchoRunner(seconds=(1.0, 1.1, 1.2)))  # padding costs next to nothing
    batcher.submit(1, job(1, rows))
    assert batcher.begin()(unmarked).rows == batch
    assert batcher.waiting == rows - batch


@pytest.mark.parametrize(("rows", "batch"), [(3, 3), (5, 4), (7, 4), (11, 8), (17, 8), (24, 8), (32, 16), (64, 16)])
def test_where_padding_costs_a_batch_fills_its_size(rows, batch):
    """Eleven rows are computed as eight and three, not as sixteen with five that nobody wants."""
    batcher = DynamicBatcher(EchoRunner(seconds=(4.0, 8.0, 16.0)))
    batcher.submit(1, job(1, rows))
    assert batcher.begin()(unmarked).rows == batch
    assert batcher.waiting == rows - batch


@pytest.mark.parametrize(("seconds", "largest"), [((4.0, 8.0, 16.0), 16), ((4.0, 7.0, 16.0), 8), ((3.0, 8.0, 20.0), 4)])
def test_sizes_that_cost_more_a_row_are_not_used(seconds, largest):
    """On a CPU large batches fall out of its caches."""
    batcher = DynamicBatcher(EchoRunner(seconds=seconds))
    batcher.submit(1, job(1, 64))
    assert batcher.begin()(unmarked).rows == largest


def test_a_second_batch_beside_one_pays_for_so_many_seconds_of_rows():
    seconds = (BESIDE_SECONDS, 1.1 * BESIDE_SECONDS, 1.2 * BESIDE_SECONDS)  # 13.3 rows at the cheapest
    batcher = DynamicBatcher(EchoRunner(seconds=seconds))
    batcher.submit(1, job(1, 13))
    assert batcher.ready(running=0)
    assert not batcher.ready(running=1)
    batcher.submit(2, job(2, 1))
    assert batcher.ready(running=1)
    alone = DynamicBatcher(EchoRunner(seconds=seconds), alone=True)
    alone.submit(1, job(1, 64))
    assert alone.ready(running=0)
    assert not alone.ready(running=1), "its batches take all threads"


def test_batches_that_are_begun_together_share_no_row():
    """Whatever order they are computed in."""
    batcher = DynamicBatcher(EchoRunner((8,)))
    batcher.submit(1, job(1, 20))
    batcher.submit(2, job(2, 4))
    computations = [batcher.begin() for _ in range(3)]
    assert batcher.waiting == 0
    rows = {1: [], 2: []}
    for compute in reversed(computations):
        for part, pictures in good_rows(compute(unmarked)):
            assert pictures == expected(part.job, part.offset, part.count)
            rows[part.job] += range(part.offset, part.offset + part.count)
    assert {number: sorted(found) for number, found in rows.items()} == {1: list(range(20)), 2: list(range(4))}


def test_small_jobs_are_not_held_up_by_a_large_one():
    batcher = DynamicBatcher(EchoRunner((8,)))
    batcher.submit(1, job(1, 64))
    batcher.submit(2, job(2, 1))
    batches = 0
    while True:
        batches += 1
        if any(part.job == 2 for part in batcher.begin()(unmarked).parts):
            break
    assert batches <= 2


def test_turns_interleave_in_one_batch():
    batcher = DynamicBatcher(EchoRunner((32,)))
    for number in (1, 2, 3):
        batcher.submit(number, job(number, 20))
    counts = {part.job: part.count for part in batcher.begin()(unmarked).parts}
    assert counts == {1: 14, 2: 8, 3: 8}  # 30 rows: a turn of 8 each, then the first has its second turn


@given(st.lists(st.integers(1, 64), min_size=1, max_size=8), st.sampled_from([(1,), (4, 8, 16), (64,)]))
def test_every_row_comes_once_and_is_its_own(sizes, buckets):
    batcher = DynamicBatcher(EchoRunner(buckets))
    for number, rows in enumerate(sizes):
        batcher.submit(number, job(number, rows))
    rows, errors = drain(batcher)
    assert not errors
    assert {number: sorted(found) for number, found in rows.items()} == {n: list(range(r)) for n, r in enumerate(sizes)}


def test_a_cancelled_job_is_not_computed():
    runner = EchoRunner()
    batcher = DynamicBatcher(runner)
    batcher.submit(1, job(1, 20))
    batcher.submit(2, job(2, 3))
    batcher.cancel({1, 99})
    assert batcher.waiting == 3
    assert drain(batcher) == ({2: [0, 1, 2]}, {})
    assert runner.batches == [3]


def test_the_rest_of_a_half_computed_job_is_dropped():
    batcher = DynamicBatcher(EchoRunner())
    batcher.submit(1, job(1, 64))
    batcher.begin()(unmarked)
    batcher.cancel({1})
    assert batcher.waiting == 0


@pytest.mark.parametrize("poison", [RAISE, NAN])
@pytest.mark.parametrize("row", [0, 3, 6])
def test_only_the_culprit_fails(poison, row):
    """Four peers fail all seven."""
    batcher = DynamicBatcher(EchoRunner((8,)))
    for number in range(7):
        batcher.submit(number, job(number, 1, poison={0: poison} if number == row else {}))
    rows, errors = drain(batcher)
    assert set(errors) == {row}
    assert set(rows) == set(range(7)) - {row}
    assert ("ValueError" if poison == RAISE else "not finite") in errors[row]


def test_nothing_of_the_exception_but_its_name_is_told():
    """Its message may hold paths or another user's values."""
    batcher = DynamicBatcher(EchoRunner())
    batcher.submit(1, job(1, 1, poison={0: RAISE}))
    _, errors = drain(batcher)
    assert errors == {1: "the model raised ValueError"}


def test_a_job_fails_as_a_whole_so_nothing_is_found_out_about_its_rows():
    """A poisoned job of 64 rows would cost a hundred batches otherwise."""
    runner = EchoRunner((64,), seconds=(1.0,))
    batcher = DynamicBatcher(runner)
    batcher.submit(1, job(1, 8, poison={3: RAISE, 6: RAISE}))
    assert drain(batcher) == ({}, {1: "the model raised ValueError"})
    assert runner.batches == [8]


def test_rows_that_are_not_finite_do_not_take_others_with_them():
    """Even of a network where one such row makes the whole batch so: what fails is what fails without the others."""

    class Leaking(EchoRunner):
        def compute(self, latents, labels):
            pictures, finite = super().compute(latents, labels)
            return (pictures, finite) if finite.all() else (np.zeros_like(pictures), np.zeros_like(finite))

    batcher = DynamicBatcher(Leaking((16,), seconds=(1.0,)))
    for number in range(8):
        batcher.submit(number, job(number, 1, poison={0: NAN} if number in (2, 5) else {}))
    rows, errors = drain(batcher)
    assert errors == dict.fromkeys((2, 5), "the model's output is not finite")
    assert rows == {number: [0] for number in range(8) if number not in (2, 5)}


def test_memory_that_is_short_lowers_the_largest_batch():
    runner = EchoRunner((1, 2, 4, 8, 16), seconds=(1.0,) * 5)
    batcher = DynamicBatcher(runner)
    for number in range(13):
        batcher.submit(number, job(number, 1, poison={0: SHORT_OF_MEMORY} if number == 7 else {}))
    result = batcher.begin()(unmarked)
    assert (result.rows, result.limit, runner.batches) == (8, FITS, [8, 4, 4])
    assert all(part.error is None for part in result.parts), "every row fits, only not at once"
    assert batcher.bound(result.limit)
    assert not batcher.bound(result.limit), "it is no news"
    drain(batcher)
    assert runner.batches == [8, 4, 4, 4, 1]


def test_the_limit_is_an_exact_size():
    runner = EchoRunner((4, 16), seconds=(1.0, 1.0))
    batcher = DynamicBatcher(runner)
    batcher.submit(1, job(1, 9, poison={0: SHORT_OF_MEMORY, 8: SHORT_OF_MEMORY}))
    batcher.submit(2, job(2, 7))
    result = batcher.begin()(unmarked)
    assert (result.rows, result.limit, runner.batches) == (8, 4, [8, 4, 4])


def test_a_lone_row_that_does_not_fit_is_to_blame_and_not_the_size(caplog):
    runner = EchoRunner((1, 2, 4, 8, 16), seconds=(1.0,) * 5)
    batcher = DynamicBatcher(runner)
    for number in range(8):
        batcher.submit(number, job(number, 1, poison={0: OUT_OF_MEMORY} if number == 3 else {}))
    result = batcher.begin()(unmarked)
    assert result.limit is None
    assert {part.job: part.error for part in result.parts if part.error} == {3: "out of memory"}
    assert "/secret/path" in caplog.text, "the operator may know more"


def test_when_nothing_fits_every_row_fails():
    batcher = DynamicBatcher(EchoRunner((1, 2), seconds=(1.0, 1.0)))
    batcher.submit(1, job(1, 2, poison={0: OUT_OF_MEMORY, 1: OUT_OF_MEMORY}))
    result = batcher.begin()(unmarked)
    assert ([part.error for part in result.parts], result.limit) == (["out of memory"], None)


def test_the_failed_batch_is_let_go_before_its_halves_are_tried():
    """Or its tensors would take the memory that was short."""
    held = []

    class Holding(EchoRunner):
        def compute(self, latents, labels):
            gc.collect()
            assert not [reference for reference in held if reference() is not None]
            activations = np.zeros(4)
            held.append(weakref.ref(activations))
            if len(labels) > 2:
                raise MemoryError
            return super().compute(latents, labels)

    batcher = DynamicBatcher(Holding((8,), seconds=(1.0,)))
    batcher.submit(1, job(1, 8))
    rows, errors = drain(batcher)
    assert (sorted(rows[1]), errors) == (list(range(8)), {})


def test_what_is_computed_is_marked_before():
    runner, marked = EchoRunner((8,)), []
    batcher = DynamicBatcher(runner)
    for number in range(1, 12):
        batcher.submit(number, job(number, 1))
    batcher.begin()(lambda numbers: marked.append((list(numbers), list(runner.batches))))
    assert marked == [(list(range(1, 9)), [])], "not those that merely wait"


def test_what_has_expired_is_not_computed():
    runner = EchoRunner((8,))
    batcher = DynamicBatcher(runner)
    for number in range(1, 41):
        batcher.submit(number, job(number, 1, deadline=math.inf if number in (7, 39) else PASSED))
    assert batcher.waiting == 40
    assert drain(batcher) == ({7: [0], 39: [0]}, {})
    assert runner.batches == [2]


def test_when_all_have_expired_there_is_nothing_to_compute():
    batcher = DynamicBatcher(EchoRunner())
    batcher.submit(1, job(1, 20, deadline=PASSED))
    assert batcher.begin() is None
    assert batcher.waiting == 0


def test_a_client_with_a_thousand_jobs_does_not_hold_up_another():
    batcher = DynamicBatcher(EchoRunner((16,)))
    for number in range(100):
        batcher.submit(number, job(number, 1, client="many"))
    batcher.submit(200, job(200, 1, client="one"))
    assert 200 in {part.job for part in batcher.begin()(unmarked).parts}


def test_a_batch_of_culprits_fails_whole():
    batcher = DynamicBatcher(EchoRunner((8,)))
    batcher.submit(1, job(1, 8, poison=dict.fromkeys(range(8), RAISE)))
    result = batcher.begin()(unmarked)
    assert [part.error for part in result.parts] == ["the model raised ValueError"]
    assert len(result.made) == 0


@given(st.dictionaries(st.integers(0, 15), st.sampled_from([RAISE, NAN]), max_size=8))
def test_any_set_of_culprits(poison):
    batcher = DynamicBatcher(EchoRunner((16,)))
    for number in range(16):
        batcher.submit(number, job(number, 1, poison={0: poison[number]} if number in poison else {}))
    rows, errors = drain(batcher)
    assert set(errors) == set(poison)
    assert set(rows) == set(range(16)) - set(poison)


class Random(RuleBasedStateMachine):
    """Random submissions, cancellations and ticks against a plain account of what is still owed."""

    @initialize(buckets=st.sampled_from([(1,), (2, 4), (4, 8, 16), (64,)]))
    def start(self, buckets):
        self.batcher, self.next_number = DynamicBatcher(EchoRunner(buckets)), 1
        self.owed: dict[int, list[int]] = {}
        self.waited: dict[int, int] = {}
        self.largest = buckets[-1]

    @rule(rows=st.integers(1, 64), client=st.sampled_from("ab"))
    @precondition(lambda self: self.next_number < 200)  # a picture holds the number as a byte
    def submit(self, rows, client):
        self.batcher.submit(self.next_number, job(self.next_number, rows, client=client))
        self.owed[self.next_number], self.waited[self.next_number] = list(range(rows)), 0
        self.next_number += 1

    @rule(data=st.data())
    def cancel(self, data):
        numbers = data.draw(st.sets(st.sampled_from([*self.owed, 10_000])))
        self.batcher.cancel(numbers)
        self.owed = {number: rows for number, rows in self.owed.items() if number not in numbers}

    @rule()
    @precondition(lambda self: self.batcher.waiting)
    def tick(self):
        ahead = len(self.owed)
        result = self.batcher.begin()(unmarked)
        assert 1 <= result.rows <= self.largest
        served = set()
        for part, pictures in good_rows(result):
            assert pictures == expected(part.job, part.offset, part.count)
            taken = list(range(part.offset, part.offset + part.count))
            assert self.owed[part.job][: part.count] == taken, "in order, once each"
            del self.owed[part.job][: part.count]
            served.add(part.job)
        self.owed = {number: rows for number, rows in self.owed.items() if rows}
        for number in self.owed:
            self.waited[number] = 0 if number in served else self.waited[number] + 1
            turns_a_batch = max(1, min(self.largest, OVERLAP_ROWS) // TURN_ROWS)
            turns = 2 * ahead  # one of each job, and one of the other client after each
            assert self.waited[number] <= turns * TURN_ROWS / min(self.largest, TURN_ROWS) / turns_a_batch + turns

    @invariant()
    def counts_agree(self):
        assert self.batcher.waiting == sum(map(len, self.owed.values()))


TestRandom = Random.TestCase
TestRandom.settings = settings(max_examples=60, stateful_step_count=30)
