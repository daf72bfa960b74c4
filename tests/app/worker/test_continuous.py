"""Slots: who gets one, who leaves one, and that nobody's tokens depend on anybody else.

The networks are fakes behind the real runner, so that each test says which tokens must come, to the last one.
"""

import dataclasses
import functools
import gc
import itertools
import math
import random
import tracemalloc
from concurrent.futures import Future

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.jobs import Grammar, Sampling, SequenceJob
from app.worker import pace
from app.worker.continuous import ContinuousBatcher
from app.worker.dispatch import unmarked
from app.worker.drawing import Steps
from app.worker.grammars import GrammarRefused
from app.worker.pace import HURRIED_STEPS, STEPS
from app.worker.pieces import CHUNK
from app.worker.sequences import SequenceRunner
from models.gpt import GPT
from tests import fake_sequences as fakes

GREEDY = Sampling(temperature=0.0)
SLOTS = 4
PASSED = 0.0  # a deadline that no machine's clock has still before it


@pytest.fixture(autouse=True)
def ticks_end_by_count(monkeypatch):
    """A busy machine must not decide how many steps a tick has."""
    monkeypatch.setattr(pace, "TICK_SECONDS", 1e6)


class Bench:
    """A batcher over a fake model; what it sent, by job."""

    def __init__(self, architecture="digest", slots=SLOTS, interrupted=lambda: False, runner=None, grammars=None):
        self.runner = runner or warmed_up(architecture, slots)
        self.batcher = ContinuousBatcher(self.runner, interrupted, grammars)
        self.tokens, self.logprobs, self.ends, self.errors, self.refused = {}, {}, {}, {}, {}
        self.results = []

    def submit(self, number, prompt, max_tokens=10, seed=None, sampling=GREEDY, **fields):
        prompt = tuple(prompt.encode()) if isinstance(prompt, str) else tuple(prompt)
        self.batcher.submit(
            number, SequenceJob("m", prompt, max_tokens, number if seed is None else seed, sampling, **fields)
        )
        self.tokens[number], self.logprobs[number] = [], []
        return self

    def tick(self, mark=unmarked):
        self.batcher.begin()
        result = self.batcher.tick(mark)
        self.results.append(result)
        for chunk in result.chunks:
            assert chunk.job not in self.ends, "a chunk after the end"
            assert chunk.job not in self.errors, "a chunk after the error"
            self.tokens[chunk.job] += chunk.tokens
            self.logprobs[chunk.job] += chunk.logprobs
            if chunk.finish is not None:
                self.ends[chunk.job] = chunk.finish
            if chunk.error is not None:
                self.errors[chunk.job] = chunk.error
            if chunk.refused is not None:
                self.refused[chunk.job] = chunk.refused
        return result

    def drain(self):
        while self.batcher.waiting:
            self.tick()
        assert self.batcher.busy == 0
        return self


@functools.cache
def warmed_up(architecture, slots):
    """A runner for many tests: warming one up takes longer than most of them."""
    return SequenceRunner(fakes.SEQUENCES[architecture](), torch.device("cpu"), slots)


def alone(prompt, *, architecture="digest", **fields):
    """What a job gives when nobody else is there: tokens, end, error."""
    bench = Bench(architecture).submit(1, prompt, **{"seed": 1, **fields}).drain()
    return bench.tokens[1], bench.ends.get(1), bench.errors.get(1)


# one sequence


def test_counting():
    assert alone([100], architecture="counting", max_tokens=20) == (list(range(101, 121)), "length", None)


def test_echo():
    prompt = [5, 50, 250, 7, 5]
    assert alone(prompt, architecture="echo-text", max_tokens=23) == ((prompt * 5)[:23], "length", None)


@pytest.mark.parametrize("at", range(1, 12))
def test_a_stop_token_ends_a_sequence_and_is_not_part_of_it(at):
    """Wherever in a tick it falls, the first token included."""
    got = alone([100], architecture="counting", max_tokens=50, stop_tokens=(100 + at, 100 + at + 1))
    assert got == (list(range(101, 100 + at)), "stop", None)


def test_no_token_is_lost_at_the_stop_with_log_probabilities():
    bench = Bench("counting").submit(1, [100], 50, sampling=Sampling(logprobs=1), stop_tokens=(105,)).drain()
    assert len(bench.logprobs[1]) == len(bench.tokens[1]) == 4


@pytest.mark.parametrize("length", [1, 2, STEPS, STEPS + 1, STEPS + 2, 40])
def test_exactly_so_many_tokens_as_were_asked_for(length):
    tokens, end, _ = alone("abc", max_tokens=length)
    assert (len(tokens), end) == (length, "length")
    assert tokens == alone("abc", max_tokens=41)[0][:length]


def test_a_slot_may_be_filled_to_its_last_position():
    tokens, end, error = alone([1, 2, 3], architecture="echo-text", max_tokens=125)
    assert (tokens, end, error) == (([1, 2, 3] * 42)[:125], "length", None)


def test_nothing_to_generate_takes_no_slot():
    bench = Bench().submit(1, "abc", 0)
    result = bench.tick()
    assert (bench.tokens[1], bench.ends[1], result.busy, bench.batcher.waiting) == ([], "length", 0, 0)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(repetition_penalty=1.4, presence_penalty=1.0)])
def test_prefill_equals_steps(sampling):
    """A prompt that is scored is run token by token, and what follows is the same."""
    prompt = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
    wanted = alone(prompt, max_tokens=15, sampling=sampling)
    bench = Bench().submit(1, prompt, 15, sampling=sampling, seed=1, score_prompt=True).drain()
    assert bench.tokens[1] == prompt[1:] + wanted[0]
    assert bench.ends[1] == "length"


def test_a_scored_prompt_may_hold_the_stop_token():
    bench = Bench("counting").submit(1, [5, 6, 9, 6], 9, score_prompt=True, stop_tokens=(6, 9)).drain()
    assert bench.tokens[1] == [6, 9, 6, 7, 8]
    assert bench.ends[1] == "stop"


def test_scoring_alone_generates_nothing():
    scored = dataclasses.replace(GREEDY, logprobs=0)
    bench = Bench().submit(1, [5, 6, 7], 0, score_prompt=True, sampling=scored).drain()
    assert (bench.tokens[1], bench.ends[1], len(bench.logprobs[1])) == ([6, 7], "length", 2)


# company


samplings = st.sampled_from(
    [
        GREEDY,
        Sampling(),
        Sampling(temperature=2.0, top_k=20),
        Sampling(top_p=0.8, min_p=0.02),
        Sampling(repetition_penalty=1.7),
        Sampling(frequency_penalty=1.0, bias=((9, 5.0),)),
        Sampling(logprobs=3),
    ]
)
jobs = st.tuples(
    st.lists(st.integers(2, 255), min_size=1, max_size=40), st.integers(1, 30), samplings, st.integers(0, 5)
)


@settings(max_examples=12)
@given(st.lists(jobs, min_size=2, max_size=12), st.lists(st.booleans(), min_size=12, max_size=12))
def test_batch_mates_and_late_joins_never_change_a_sequence(asked, late):
    bench = Bench()
    for number, (prompt, length, sampling, _) in enumerate(asked):
        bench.submit(number, prompt, length, sampling=sampling, stop_tokens=(7,))
        for _ in range(asked[number][3] if late[number] else 0):
            if bench.batcher.waiting:
                bench.tick()
    bench.drain()
    for number, (prompt, length, sampling, _) in enumerate(asked):
        wanted = alone(prompt, max_tokens=length, sampling=sampling, seed=number, stop_tokens=(7,))
        assert (bench.tokens[number], bench.ends[number], None) == wanted
        assert len(bench.logprobs[number]) == (len(wanted[0]) if sampling.logprobs is not None else 0)


def test_seeds_differ_and_repeat():
    bench = Bench()
    for number, seed in enumerate((5, 6, 5)):
        bench.submit(number, "abc", 30, seed, Sampling())
    bench.drain()
    assert bench.tokens[0] == bench.tokens[2] != bench.tokens[1]


def test_a_late_sequence_joins_between_two_ticks():
    bench = Bench("counting").submit(1, [100], 40)
    bench.tick()
    bench.tick()
    assert len(bench.tokens[1]) == 1 + STEPS
    bench.submit(2, [50], 40)
    bench.tick()
    assert bench.tokens[2] == [51], "the very next tick reads the newcomer's prompt"
    bench.tick()
    assert (len(bench.tokens[1]), len(bench.tokens[2])) == (1 + 2 * STEPS, 1 + STEPS)
    assert bench.results[-1].rows == 2


def test_newcomers_do_not_hold_up_those_who_run():
    """After a tick of prefills there is one of steps, however many wait."""
    bench = Bench("counting", slots=2).submit(1, [100], 100)
    bench.tick()
    for number in range(2, 12):
        bench.submit(number, [number], 1)
        bench.tick()
    kinds = [bool(result.rows) for result in bench.results]
    assert all(first or second for first, second in itertools.pairwise(kinds))
    assert len(bench.tokens[1]) == 1 + 5 * HURRIED_STEPS, "and those are short while somebody waits for a first token"


def test_first_come_first_served_when_all_slots_are_taken():
    bench = Bench("counting")
    for number in range(10):
        bench.submit(number, [100], 5)
    bench.drain()
    order = list(bench.ends)
    assert set(order[:SLOTS]) == {0, 1, 2, 3}
    assert set(order[SLOTS : 2 * SLOTS]) == {4, 5, 6, 7}
    assert max(result.busy for result in bench.results) <= SLOTS


def test_a_model_of_one_slot():
    bench = Bench("text-places-differ")
    for number in range(3):
        bench.submit(number, [number], 12, sampling=Sampling())
    bench.drain()
    for number in range(3):
        single = Bench("text-places-differ").submit(number, [number], 12, sampling=Sampling()).drain()
        assert bench.tokens[number] == single.tokens[number]
    assert max(result.rows for result in bench.results) == 1


# ticks


def test_what_a_tick_reports():
    bench = Bench("counting").submit(1, [100, 101, 102], 12).submit(2, [7], 3)
    first = bench.tick()
    assert (first.rows, first.prefills, first.busy, len(first.waited)) == (0, 4, 2, 2)
    assert all(seconds >= 0 for seconds in (first.seconds, *first.waited))
    second = bench.tick()
    assert (second.rows, second.prefills, second.busy, second.waited) == (2, 0, 1, [])
    header, arrays = second.frame("m")
    assert (header["type"], header["model"], header["busy"], arrays) == ("chunks", "m", 1, ())
    assert header["chunks"][1] == (2, (9, 10), [], "length", None, None, False)


def test_no_more_steps_than_the_longest_needs():
    bench = Bench("counting").submit(1, [100], 3).submit(2, [100], 5)
    bench.tick()
    calls, original = [], bench.runner.steps
    bench.runner.steps = lambda live, count, stop: calls.append(count) or original(live, count, stop)
    try:
        bench.drain()
    finally:
        del bench.runner.steps
    assert calls == [4]


@pytest.mark.parametrize("after", [1, 2, 5])
def test_interrupted_ticks_lose_nothing(after):
    asked = 0

    def interrupted():
        nonlocal asked
        asked += 1
        return asked % after == 0

    bench = Bench(interrupted=interrupted)
    for number in range(6):
        bench.submit(number, [number, 9], 20, sampling=Sampling())
    bench.drain()
    for number in range(6):
        assert bench.tokens[number] == alone([number, 9], max_tokens=20, sampling=Sampling(), seed=number)[0]
    steps = [len(chunk.tokens) for result in bench.results if result.rows for chunk in result.chunks]
    assert max(steps) <= max(after, 1)


def test_a_tick_of_prompts_ends_when_other_work_arrives():
    bench = Bench("counting", interrupted=lambda: True)
    for number in range(4):
        bench.submit(number, [number] * (CHUNK + 10), 5)
    assert bench.tick().prefills == 4 * CHUNK, "one call"
    assert bench.tick().prefills == 4 * 10


def test_a_slow_model_has_short_ticks(monkeypatch):
    monkeypatch.setattr(pace, "TICK_SECONDS", 0.03)
    bench = Bench("counting").submit(1, [100], 60)
    bench.batcher._pace.step_seconds = 0.011
    bench.tick()
    assert len(bench.tick().chunks[0].tokens) == 2
    bench.batcher._pace.step_seconds = 5.0
    assert len(bench.tick().chunks[0].tokens) == 1


# leaving


def test_a_cancelled_slot_is_reused_within_one_tick():
    bench = Bench("counting")
    for number in range(SLOTS + 1):
        bench.submit(number, [100], 60)
    bench.tick()
    bench.tick()
    assert bench.batcher.busy == SLOTS
    bench.batcher.cancel({2})
    assert bench.batcher.busy == SLOTS - 1
    result = bench.tick()
    assert [chunk.job for chunk in result.chunks] == [SLOTS]
    assert result.busy == SLOTS
    assert bench.batcher._slots[2].number == SLOTS, "the lowest free slot"


def test_the_next_in_a_cancelled_slot_sees_nothing_of_it():
    bench = Bench(slots=1).submit(1, [9] * 30, 90, sampling=Sampling(bias=((5, 100.0),), frequency_penalty=2.0))
    bench.tick()
    bench.tick()
    bench.batcher.cancel({1})
    bench.submit(2, [4, 5], 20, seed=2).drain()
    assert bench.tokens[2] == alone([4, 5], max_tokens=20, seed=2)[0]


def test_cancelling_what_waits_what_runs_and_what_is_unknown():
    bench = Bench("counting")
    for number in range(8):
        bench.submit(number, [100], 9)
    bench.tick()
    bench.batcher.cancel({0, 1, 6, 99})
    assert bench.batcher.waiting == 5
    bench.drain()
    assert set(bench.ends) == {2, 3, 4, 5, 7}
    assert all(bench.tokens[number] == list(range(101, 110)) for number in bench.ends)


def test_idle_rows_are_harmless():
    """Free slots between and above busy ones are computed too, and change nothing."""
    wanted = alone([8, 8], max_tokens=60, seed=3)[0]
    bench = Bench()
    for number in range(4):
        bench.submit(number, [8, 8], 60)
    bench.tick()
    bench.batcher.cancel({0, 2})
    bench.drain()
    assert bench.tokens[3] == wanted
    assert bench.results[-1].rows <= 2


# failing


def poisoned(kind, filler=4):
    return kind.encode() + bytes([60]) * filler


def failing(bench, prompt, place, count=4):
    """`count` sequences, one of which misbehaves; the others must not notice."""
    for number in range(count):
        own = prompt if number == place else [number + 60, 3]
        bench.submit(number, own, 25, sampling=Sampling())
    bench.drain()
    assert set(bench.errors) == {place}
    for number in set(range(count)) - {place}:
        wanted = alone([number + 60, 3], max_tokens=25, sampling=Sampling(), seed=number)
        assert (bench.tokens[number], bench.ends[number], None) == wanted
    return bench.errors[place], bench.tokens[place]


@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_prompt_that_raises_fails_alone(place):
    error, tokens = failing(Bench(), poisoned(fakes.RAISE_PREFILL), place)
    assert error == "the model raised ValueError on the prompt"
    assert tokens == []


@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_step_that_raises_fails_alone_and_nothing_is_sent_twice(place):
    """Its neighbours have sent tokens by then; they start again, and only what is new is sent."""
    bench = Bench()
    error, tokens = failing(bench, poisoned(fakes.RAISE_STEP), place)
    assert error == "the model raised ValueError"
    assert 1 <= len(tokens) < fakes.FUSE
    reruns = [result for result in bench.results if result.rows == 1]
    assert reruns, "each is run again alone"


def test_the_culprit_s_own_tokens_are_not_sent_twice_either():
    bench = Bench()
    _, tokens = failing(bench, poisoned(fakes.RAISE_STEP), 1)
    assert tokens == alone(poisoned(fakes.RAISE_STEP), max_tokens=25, sampling=Sampling(), seed=1)[0][: len(tokens)]


@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize("filler", [2, 20])
def test_not_finite_fails_alone(place, filler):
    """In a step, and in the prompt itself."""
    error, tokens = failing(Bench(), poisoned(fakes.NAN, filler), place)
    assert error == "the model's output is not finite"
    assert len(tokens) < fakes.FUSE


def test_several_culprits_and_more_sequences_than_slots():
    bench = Bench()
    kinds = {1: fakes.RAISE_STEP, 4: fakes.NAN, 5: fakes.RAISE_PREFILL, 9: fakes.RAISE_STEP}
    for number in range(12):
        prompt = poisoned(kinds[number]) if number in kinds else [number + 60]
        bench.submit(number, prompt, 20, sampling=Sampling(logprobs=1))
    bench.drain()
    assert set(bench.errors) == set(kinds)
    for number in set(range(12)) - set(kinds):
        assert bench.tokens[number] == alone([number + 60], max_tokens=20, sampling=Sampling(), seed=number)[0]
        assert len(bench.logprobs[number]) == 20


def test_who_runs_again_can_be_cancelled():
    bench = Bench()
    for number in range(4):
        bench.submit(number, poisoned(fakes.RAISE_STEP) if number == 0 else [number], 30)
    while not bench.batcher._arrivals._suspects:
        bench.tick()
    bench.batcher.cancel({0, 2})
    bench.submit(9, [9], 3)
    bench.drain()
    assert not bench.errors
    assert set(bench.ends) == {1, 3, 9}


def test_a_device_that_fails_every_step_fails_every_sequence_once():
    bench = Bench()
    for number in range(6):
        bench.submit(number, poisoned(fakes.RAISE_STEP), 30)
    bench.drain()
    assert set(bench.errors) == set(range(6))


# in the long run


class PlainRunner:
    """Counting and its misbehaviour without tensors, so that many requests take little time."""

    slots, max_length, step_seconds, token_seconds = 16, 512, 1e-6, 1e-6
    keeps, shares, packs_from = True, True, 4

    def __init__(self):
        self.kinds = [None] * self.slots
        self.held = [()] * self.slots  # what each slot has read of a prompt

    def read(self, pieces):
        for piece in pieces:
            held = self.held[piece.slot][: piece.start]
            assert held == tuple(piece.prompt[: piece.start]), "read on where nothing was read"
            self.held[piece.slot] = tuple(piece.prompt[: piece.end])
            marked = piece.prompt[0] == fakes.MARK
            self.kinds[piece.slot] = chr(piece.prompt[1]) if marked else None
        if any(self.kinds[piece.slot] == "P" for piece in pieces):
            raise ValueError("a poisoned prompt")
        ends = [piece for piece in pieces if piece.row is not None]
        return self._steps([piece.row for piece in ends], [self.kinds[piece.slot] for piece in ends], 1)

    def take_over(self, source, target, length):
        assert len(self.held[source]) >= length > 0
        self.held[target] = self.held[source][:length]

    def forget(self, slot):
        self.held[slot] = ()

    def scrub(self, slot):
        self.kinds[slot] = None

    def steps(self, live, count, interrupted):
        kinds = [self.kinds[slot] if row is not None and row.position + count > fakes.FUSE else None
                 for slot, row in enumerate(live)]  # fmt: skip
        if "S" in kinds:
            raise ValueError("a poisoned step")
        assert count == 1 or all(row is None or row.allowed is None for row in live)
        return self._steps(live, kinds, count)

    def _steps(self, rows, kinds, count):
        tokens = np.zeros((len(rows), count), np.int64)
        for place, row in enumerate(rows):
            if row is not None:
                tokens[place] = row.token + 1 + np.arange(count)
        return Steps(tokens, np.array([kind != "N" for kind in kinds], bool), [])


class Countdown:
    """A grammar of so many tokens, whatever they are."""

    def __init__(self, left):
        self.left = left

    def allowed(self):
        mask = np.full(fakes.VOCAB, self.left > 0)
        mask[fakes.EOS] = self.left == 0
        return mask

    def accept(self, token):
        self.left -= 1


class Countdowns:
    def compile(self, grammar):
        future = Future()
        if grammar.text == "refuse":
            future.set_exception(GrammarRefused("a bad grammar"))
        else:
            future.set_result(Countdown(int(grammar.text)))
        return future


def storm(bench, requests, rng):
    """Random requests of every kind, grammars among them, some given up; whatever ended is checked."""
    expected, gone, number = {}, set(), 0
    while number < requests or bench.batcher.waiting:
        for _ in range(min(rng.randrange(9), requests - number)):
            length, first, grammar = rng.randrange(1, 20), rng.randrange(60, 200), None
            asked = length
            kind = rng.choices([None, fakes.RAISE_PREFILL, fakes.RAISE_STEP, fakes.NAN], [96, 2, 1, 1])[0]
            stop = (first + rng.randrange(1, 30),) if rng.random() < 0.3 else ()
            prompt = poisoned(kind, 9) if kind else [first] * rng.randrange(1, 4)
            sampling = Sampling(temperature=0.0, bias=((0, -5.0),)) if rng.random() < 0.1 else GREEDY
            if bench.batcher._arrivals._grammars is not None and rng.random() < 0.05:
                text = rng.choice(["0", "1", "4", "refuse"])
                grammar, stop = Grammar("regex", text), (*stop, fakes.EOS)
                length = min(length, 0 if text == "refuse" else int(text))
            bench.submit(number, prompt, asked, sampling=sampling, stop_tokens=stop, grammar=grammar)
            said = list(range(first + 1, first + 1 + length))
            said = said[: said.index(stop[0])] if stop and stop[0] in said else said
            expected[number] = (kind, said)
            number += 1
        if rng.random() < 0.2 and number:
            given_up = {rng.randrange(max(0, number - 30), number) for _ in range(3)}
            bench.batcher.cancel(given_up)
            gone |= given_up
        if bench.batcher.waiting:
            bench.tick()
    answered = bench.ends.keys() | bench.errors.keys() | bench.refused.keys()
    assert expected.keys() - answered <= gone, "everyone who stayed has an answer"
    for number, (kind, said) in expected.items():
        if kind is None:
            assert number not in bench.errors
            assert bench.tokens[number] == said[: len(bench.tokens[number])], "and of the others nothing wrong was sent"
            assert number in gone or bench.tokens[number] == said
        elif kind == fakes.RAISE_PREFILL and said:  # who has nothing to say is not read
            assert number not in bench.ends
    assert bench.batcher.waiting == bench.batcher.busy == 0
    assert bench.batcher._slots.free == bench.runner.slots
    assert len(bench.errors) > requests / 100
    assert len(bench.ends) > requests / 2
    for kept in (bench.tokens, bench.logprobs, bench.ends, bench.errors, bench.refused, bench.results):
        kept.clear()  # the bench's own memory


def test_ten_thousand_requests_leave_nothing_behind(caplog):
    """With cancels, stops and errors: every slot free, nobody forgotten, and no memory kept."""
    caplog.set_level("ERROR", "genserve.worker")  # hundreds of warnings are no news
    rng, held, bench = random.Random(0), [], Bench(runner=PlainRunner(), grammars=Countdowns())
    storm(bench, 1_000, rng)
    tracemalloc.start()
    try:
        for _ in range(5):
            storm(bench, 2_000, rng)
            gc.collect()
            held.append((tracemalloc.get_traced_memory()[0], len(gc.get_objects())))
    finally:
        tracemalloc.stop()
    assert held[-1][0] - held[0][0] < 32 << 10, held  # a list of 8,000 numbers would be twice that
    assert held[-1][1] - held[0][1] < 200, held


def test_a_storm_on_the_real_runner(caplog):
    caplog.set_level("ERROR", "genserve.worker")
    storm(Bench("counting", slots=8), 300, random.Random(1))


def test_a_large_request_leaves_slots_to_a_small_one_behind_it():
    bench = Bench()
    for number in range(1, 3 * SLOTS):
        bench.submit(number, "large", max_tokens=50, request=99)
    bench.tick()
    assert bench.batcher.busy == SLOTS - 1, "a request does not take all slots"
    bench.submit(500, "small", max_tokens=1)
    for _ in range(3):
        bench.tick()
    assert bench.ends == {500: "length"}, "the small request did not wait for a sequence of the large one to end"
    bench.drain()
    assert len(bench.ends) == 3 * SLOTS


def test_a_free_slot_goes_to_the_request_that_holds_the_fewest():
    bench = Bench()
    for number in range(1, 5):
        bench.submit(number, "first", max_tokens=40, request=7)
    bench.submit(5, "second", max_tokens=40, request=8)
    bench.submit(6, "second", max_tokens=40, request=8)
    bench.submit(70, "third", max_tokens=1)
    bench.tick()
    assert set(bench.batcher._numbers()) == {1, 5, 2, 6}
    assert 70 in bench.ends, "the third request's only sequence had its turn before anybody's second"


# fairness between clients


def test_clients_share_the_slots():
    bench = Bench("counting")
    for number in range(1, 9):
        bench.submit(number, [100], 60, client="many")
    bench.submit(20, [100], 60, client="one")
    bench.submit(21, [100], 60, client="one")
    bench.tick()
    assert set(bench.batcher._numbers()) == {1, 20, 2, 21}
    bench.drain()


def test_one_slot_is_kept_for_short_sequences():
    bench = Bench("counting")
    for number in range(1, 6):
        bench.submit(number, [100], 100)
    bench.tick()
    assert bench.batcher.busy == SLOTS - 1
    bench.submit(50, [100], 3)
    while 50 not in bench.ends:
        bench.tick()
    assert not bench.ends.keys() - {50}, "it did not wait for a long one"
    bench.drain()
    assert len(bench.ends) == 6


# deadlines


def test_what_has_expired_gets_no_slot():
    bench = Bench("counting")
    for number in range(1, 11):
        bench.submit(number, [100], 5, deadline=math.inf if number in (4, 9) else PASSED)
    bench.drain()
    assert bench.ends.keys() == {4, 9}
    assert not bench.errors
    assert len(bench.results) == 2, "and takes no time"


def test_when_all_have_expired_there_is_nothing_to_compute():
    bench = Bench("counting").submit(1, [100], 5, deadline=PASSED)
    assert bench.batcher.begin() is None
    assert bench.batcher.waiting == 0


def test_the_last_one_may_expire_between_the_beginning_of_a_tick_and_its_prefill():
    bench = Bench("counting").submit(1, [100], 5)
    assert bench.batcher.begin() is not None
    (waiting,) = bench.batcher._arrivals._queue._waiting.values()
    object.__setattr__(waiting.job, "deadline", PASSED)
    result = bench.tick()
    assert (result.chunks, result.rows, result.busy, bench.batcher.waiting) == ([], 0, 0, 0)


def test_what_has_begun_goes_on():
    """Whether its answer still counts is for the other side to say: it cancels."""
    bench = Bench("counting").submit(1, [100], 30)
    bench.tick()
    object.__setattr__(bench.batcher._slots[0].job, "deadline", PASSED)
    bench.drain()
    assert bench.tokens[1] == list(range(101, 131))


# marks


def test_prompts_are_marked_before_they_are_read_and_who_merely_waits_is_not():
    bench, events = Bench("counting"), []
    original = bench.runner.read
    bench.runner.read = lambda pieces: events.append([piece.slot for piece in pieces]) or original(pieces)
    for number in range(1, 7):
        bench.submit(number, [100, number], 20)
    try:
        bench.tick(lambda numbers: events.append(set(numbers)))
    finally:
        del bench.runner.read
    assert events == [{1, 2, 3, 4}, [0, 1, 2, 3]]
    events.clear()
    bench.tick(lambda numbers: events.append(set(numbers)))
    assert events == [{1, 2, 3, 4}]


# memory


def test_a_sequence_that_runs_out_of_memory_fails_alone():
    error, tokens = failing(Bench(), poisoned(fakes.OUT_OF_MEMORY), 2)
    assert error == "out of memory"
    assert len(tokens) < fakes.FUSE


class Overflows(GPT):
    """Goes wrong for good after token 7: keys and values of that slot are no numbers."""

    def step(self, tokens, positions, span, state):
        logits = super().step(tokens, positions, span, state)
        bad = torch.where(tokens == 7)[0]
        for memory in (*state.keys, *state.values):
            memory[bad, :, positions[bad]] = float("nan")
        logits[bad] = float("nan")
        return logits


@functools.cache
def overflowing():
    torch.manual_seed(0)
    network = Overflows(vocab_size=32, max_length=64, width=16, layers=2, heads=2).eval().requires_grad_(False)
    return SequenceRunner(network, torch.device("cpu"), SLOTS)


def test_the_next_in_a_slot_whose_sequence_went_wrong_does_not():
    """No mask hides what is no number: zero times it is no number either."""
    never_7 = Sampling(temperature=0.0, bias=((7, -100.0),))
    wanted = Bench(runner=overflowing()).submit(1, [3, 4], 40, sampling=never_7).drain().tokens[1]
    bench = Bench(runner=overflowing())
    forced = (1, 2, *[7] * 30)
    for number in range(SLOTS):
        bench.submit(number, forced, 1, score_prompt=True)
    bench.drain()
    assert len(bench.errors) == SLOTS
    for number in range(10, 10 + SLOTS):
        bench.submit(number, [3, 4], 40, sampling=never_7)
    bench.drain()
    assert len(bench.errors) == SLOTS, "none more"
    assert [bench.tokens[number] for number in range(10, 10 + SLOTS)] == [wanted] * SLOTS


def test_a_slot_that_can_not_be_overwritten_is_used_all_the_same(caplog):
    class Stubborn(PlainRunner):
        def scrub(self, slot):
            raise RuntimeError("no")

    bench = Bench(runner=Stubborn())
    bench.submit(1, poisoned(fakes.RAISE_PREFILL), 5).submit(2, [100], 3).drain()
    bench.submit(3, [100], 3).drain()
    assert bench.errors.keys() == {1}
    assert bench.tokens[2] == bench.tokens[3] == [101, 102, 103]
    assert "slot 0 can't be overwritten" in caplog.text
