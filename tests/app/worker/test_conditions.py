"""What a sequence is told besides tokens: whose it is, when it is told, and that nobody else hears it.

The network counts in steps of what it was told, so that every token says whether that was right.
"""

import functools
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.jobs import Sampling, SequenceJob
from app.worker.continuous import ContinuousBatcher
from app.worker.pace import SAMPLE_STEPS, STEPS, Pace
from app.worker.sequences import SequenceRunner
from models.protocols import ConditionedModel, PrefixModel
from tests import fake_sequences as fakes

GREEDY = Sampling(temperature=0.0)
CPU = torch.device("cpu")
SLOTS = 4


@functools.cache
def warmed_up():
    """A runner for many tests: warming one up takes longer than most of them."""
    return SequenceRunner(fakes.Striding(), CPU, SLOTS)


class Bench:
    """A batcher over the counting network; what it sent, by job."""

    def __init__(self, runner=None):
        self.batcher = ContinuousBatcher(runner or warmed_up(), lambda: False)
        self.tokens, self.errors, self.reused = {}, {}, 0

    def submit(self, number, prompt, condition=None, max_tokens=10, **fields):
        told = None if condition is None else np.array(condition, np.float32)
        self.tokens[number] = []
        job = SequenceJob("m", tuple(prompt), max_tokens, number, GREEDY, condition=told, **fields)
        self.batcher.submit(number, job)
        return self

    def tick(self):
        self.batcher.begin()
        result = self.batcher.tick()
        self.reused += result.reused
        for chunk in result.chunks:
            self.tokens[chunk.job] += chunk.tokens
            if chunk.error is not None:
                self.errors[chunk.job] = chunk.error

    def drain(self):
        while self.batcher.waiting:
            self.tick()
        return self


def counted(last, stride, count=10):
    """What must come after a token."""
    return [(last + stride * place) % fakes.VOCAB for place in range(1, count + 1)]


def test_the_fake_keeps_its_protocol():
    assert isinstance(fakes.Striding(), ConditionedModel)
    assert isinstance(fakes.Striding(), PrefixModel)
    assert not isinstance(fakes.Counting(), ConditionedModel)


@pytest.mark.parametrize(("told", "stride"), [(None, 1), ([], 1), ([2], 2), ([3, 4], 7), ([5, 6, 7], 18), ([0, 9], 9)])
def test_a_sequence_follows_what_it_was_told(told, stride):
    assert Bench().submit(1, [100], told).drain().tokens[1] == counted(100, stride)


def test_what_one_was_told_the_next_in_its_slot_does_not_hear():
    bench = Bench()
    for number, told in enumerate([[7], None, [3], []]):
        bench.submit(number, [50], told).drain()
    assert bench.tokens == {0: counted(50, 7), 1: counted(50, 1), 2: counted(50, 3), 3: counted(50, 1)}


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 90), st.integers(1, 20)), min_size=1, max_size=12))
def test_many_at_once_each_follow_their_own(asked):
    """Other strides, prompts of one and several pieces, more of them than slots."""
    bench = Bench()
    for number, (stride, length, count) in enumerate(asked):
        bench.submit(number, [number] * length, [stride] if stride else None, count)
        if number % 3 == 2:
            bench.tick()
    bench.drain()
    for number, (stride, _, count) in enumerate(asked):
        assert bench.tokens[number] == counted(number, stride or 1, count)


def test_a_prompt_is_not_taken_over_from_one_who_was_told_something_else():
    """Not even from one who was told the same: what was told is part of what was read."""
    prompt = list(range(100))
    bench = Bench()
    for number, told in enumerate([[7], [7], None, [5]]):
        bench.submit(number, prompt, told).drain()
    assert bench.reused == 0
    assert [bench.tokens[number][0] for number in range(4)] == [106, 106, 100, 104]
    shared = Bench(SequenceRunner(fakes.Counting(), CPU, SLOTS))
    for number in range(2):
        shared.submit(number, prompt).drain()
    assert shared.reused > 0, "models that are told nothing share prompts as ever"


@pytest.mark.parametrize("poison", [fakes.RAISE_PREFILL, fakes.RAISE_STEP, fakes.NAN])
def test_one_bad_sequence_leaves_others_with_what_they_were_told(poison):
    """Whoever runs again alone, from the beginning, is told again."""
    bench = Bench()
    for number in range(3):
        bench.submit(number, [10 * number] * 70, [number + 2], 40)
    bench.submit(9, poison.encode(), [4], 40)
    bench.drain()
    assert set(bench.errors) == {9}
    assert [bench.tokens[number] for number in range(3)] == [counted(10 * n, n + 2, 40) for n in range(3)]


def test_a_slot_that_was_scrubbed_is_told_anew():
    bench = Bench(SequenceRunner(fakes.Striding(), CPU, 1))
    bench.submit(1, fakes.NAN.encode(), [5], 40).drain()
    bench.submit(2, [3], None).drain()
    assert (set(bench.errors), bench.tokens[2]) == ({1}, counted(3, 1))


@pytest.mark.parametrize(("network", "told"), [(fakes.Striding, [1] * 4), (fakes.Counting, [1])])
def test_more_than_a_model_takes_fails_the_sequence_alone(network, told):
    bench = Bench(SequenceRunner(network(), CPU, SLOTS))
    bench.submit(1, [5], told).submit(2, [5]).drain()
    assert set(bench.errors) == {1}
    assert bench.tokens[2] == counted(5, 1)


def test_a_score_may_begin_anywhere():
    """The beginning is read at once and gets no log probabilities; the rest is run token by token."""
    scored = Sampling(temperature=0.0, logprobs=0)
    for start in (1, 3, 5):
        batcher = ContinuousBatcher(warmed_up(), lambda: False)
        told = np.array([2], np.float32)
        prompt = (1, 2, 10, 12, 14, 99)
        batcher.submit(1, SequenceJob("m", prompt, 0, 0, scored, score_prompt=True, score_from=start, condition=told))
        chunks = []
        while batcher.waiting:
            chunks += batcher.tick().chunks
        tokens = [token for chunk in chunks for token in chunk.tokens]
        likely = [own.logprob > -1 for chunk in chunks for own in chunk.logprobs]
        assert tuple(tokens) == prompt[start:]
        assert likely == [after - before == 2 for before, after in itertools.pairwise(prompt[start - 1 :])]


def test_a_tick_of_samples_is_long_but_bounded():
    most = Pace(1e-6, 1e-6, SAMPLE_STEPS)
    assert most.steps(10_000, hurried=False) == SAMPLE_STEPS
    assert most.steps(100, hurried=False) == 100
    assert Pace(1e-6, 1e-6).steps(10_000, hurried=False) == STEPS
    slow = Pace(0.001, 1e-6, SAMPLE_STEPS)
    assert slow.steps(10_000, hurried=False) == 30
    assert slow.steps(10_000, hurried=True) < STEPS
