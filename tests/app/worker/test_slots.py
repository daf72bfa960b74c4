"""Prompts in pieces, and what one takes over from another: the tokens are the same, and nobody waits for long.

`Grained` remembers in which piece, or by which step, each position was read, and says something else for each way.
"""

import itertools
import random

import pytest
import torch

from app.engine.jobs import Sampling, SequenceJob
from app.worker import pace
from app.worker.continuous import ContinuousBatcher
from app.worker.pieces import CHUNK
from app.worker.sequences import SequenceRunner
from models.gpt import GPT
from models.llama import Llama
from tests import fake_sequences as fakes

GREEDY = Sampling(temperature=0.0)
SLOTS = 4
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def ticks_end_by_count(monkeypatch):
    """A busy machine must not decide how many steps a tick has, nor how many tokens it reads."""
    monkeypatch.setattr(pace, "TICK_SECONDS", 1e6)


class Bench:
    """A batcher over a model of 512 positions, and what came of each job."""

    def __init__(self, network=None, slots=SLOTS, interrupted=lambda: False):
        self.runner = SequenceRunner(network or fakes.Grained(max_length=512), CPU, slots)
        self.batcher = ContinuousBatcher(self.runner, interrupted)
        self.tokens, self.ends, self.errors, self.results = {}, {}, {}, []

    def submit(self, number, prompt, max_tokens=6, sampling=GREEDY, seed=7, **fields):
        self.batcher.submit(number, SequenceJob("m", tuple(prompt), max_tokens, seed, sampling, **fields))
        self.tokens[number] = []
        return self

    def tick(self):
        self.results.append(self.batcher.tick())
        for chunk in self.results[-1].chunks:
            self.tokens[chunk.job] += chunk.tokens
            if chunk.finish is not None:
                self.ends[chunk.job] = chunk.finish
            if chunk.error is not None:
                self.errors[chunk.job] = chunk.error
        return self.results[-1]

    def drain(self):
        while self.batcher.waiting:
            self.tick()
        assert self.batcher.busy == 0
        return self

    @property
    def read(self):
        return sum(result.prefills for result in self.results)

    @property
    def reused(self):
        return sum(result.reused for result in self.results)


def alone(prompt, network=None, **fields):
    """What a prompt gives on a model that has read nothing else."""
    return Bench(network).submit(1, prompt, **fields).drain().tokens[1]


def prompt(length, kind=0):
    """Some tokens; two prompts of a kind begin alike."""
    return [2 + (kind * 7919 + place * (place + 3) * 31) % 250 for place in range(length)]


# pieces


@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 5])
def test_a_prompt_is_read_on_a_grid_whatever_runs_beside_it(length):
    wanted = alone(prompt(length))
    bench = Bench().submit(1, prompt(90, 1), 60)
    bench.tick()
    for number in (2, 3):
        bench.submit(number, prompt(70 * number, number), 30)
    bench.submit(4, prompt(length)).drain()
    assert bench.tokens[4] == wanted


def test_a_long_prompt_never_holds_up_those_who_run(monkeypatch):
    monkeypatch.setattr(pace, "TICK_SECONDS", 1e-9)
    bench = Bench().submit(1, prompt(5, 1), 100)
    bench.tick()
    bench.submit(2, prompt(5 * CHUNK))
    kinds = [bool(bench.tick().rows) for _ in range(10)]
    assert kinds == [True, False] * 5, "after each piece there is a step"
    assert [result.prefills for result in bench.results if not result.rows] == [5, *[CHUNK] * 5]
    assert bench.tokens[2] == alone(prompt(5 * CHUNK))[:1]


def test_prompts_take_turns_by_pieces(monkeypatch):
    """A short one that comes after a long one does not wait for its end."""
    monkeypatch.setattr(pace, "TICK_SECONDS", 1e-9)
    bench = Bench().submit(1, prompt(5, 1), 100)
    bench.tick()
    bench.submit(2, prompt(7 * CHUNK)).submit(3, prompt(9, 3))
    for _ in range(5):
        bench.tick()
    assert bench.tokens[3]
    assert not bench.tokens[2]


def test_when_nobody_runs_a_tick_reads_more():
    bench = Bench().submit(1, prompt(400)).submit(2, prompt(300, 1))
    assert bench.tick().prefills >= pace.TICK_TOKENS
    bench.drain()
    assert (bench.tokens[1], bench.tokens[2]) == (alone(prompt(400)), alone(prompt(300, 1)))


def test_one_who_leaves_in_the_middle_of_its_prompt_frees_its_slot_at_once(monkeypatch):
    monkeypatch.setattr(pace, "TICK_SECONDS", 1e-9)
    bench = Bench(slots=2).submit(1, prompt(5, 1), 40)
    bench.tick()
    bench.submit(2, prompt(7 * CHUNK))
    for _ in range(4):
        bench.tick()
    assert bench.batcher.busy == 2
    bench.batcher.cancel({2})
    assert bench.batcher.busy == 1
    bench.submit(3, prompt(100, 5)).drain()
    assert bench.tokens[3] == alone(prompt(100, 5))
    assert not bench.tokens[2]


@pytest.mark.parametrize("after", [1, 2, 3])
def test_steps_beside_a_prompt_that_is_half_read_change_nothing(after, monkeypatch):
    """Rows of the step that have nothing to advance write where nothing is lost."""
    monkeypatch.setattr(pace, "TICK_SECONDS", 1e-9)
    bench = Bench()
    for number in range(3):
        bench.submit(number, prompt(30 * number + 5, number), 70)
    for _ in range(after):
        bench.tick()
    bench.submit(3, prompt(300, 9)).drain()
    for number in range(3):
        assert bench.tokens[number] == alone(prompt(30 * number + 5, number), max_tokens=70)
    assert bench.tokens[3] == alone(prompt(300, 9))


def test_a_model_that_knows_no_positions_reads_a_prompt_in_one_tick(monkeypatch):
    monkeypatch.setattr(pace, "TICK_SECONDS", 1e-9)
    interrupted = itertools.cycle([True, False])
    bench = Bench(fakes.Recurrent(max_length=512), interrupted=lambda: next(interrupted)).submit(1, prompt(5, 1), 60)
    bench.tick()
    bench.submit(2, prompt(3 * CHUNK + 5)).submit(3, prompt(3 * CHUNK + 5)).drain()
    assert bench.reused == 0
    assert bench.tokens[2] == bench.tokens[3] == alone(prompt(3 * CHUNK + 5), fakes.Recurrent(max_length=512))
    assert bench.tokens[1] == alone(prompt(5, 1), fakes.Recurrent(max_length=512), max_tokens=60)


# taking over


def test_the_beginning_of_a_prompt_is_taken_over_from_one_that_runs():
    bench = Bench().submit(1, prompt(2 * CHUNK + 9), 60)
    bench.tick()
    longer = [*prompt(2 * CHUNK + 5), 3, 3, 3]
    bench.submit(2, longer).drain()
    assert bench.reused == 2 * CHUNK
    assert bench.tokens[2] == alone(longer)
    assert bench.tokens[1] == alone(prompt(2 * CHUNK + 9), max_tokens=60)


def test_and_from_one_that_has_left():
    bench = Bench().submit(1, prompt(2 * CHUNK + 9)).drain()
    bench.submit(2, prompt(3 * CHUNK)).drain()
    assert bench.reused == 2 * CHUNK
    assert bench.tokens[2] == alone(prompt(3 * CHUNK))


def test_and_from_one_that_was_given_up_half_way(monkeypatch):
    monkeypatch.setattr(pace, "TICK_TOKENS", 2 * CHUNK)
    bench = Bench().submit(1, prompt(5 * CHUNK))
    bench.tick()
    bench.batcher.cancel({1})
    bench.submit(2, prompt(4 * CHUNK)).drain()
    assert bench.reused == 2 * CHUNK
    assert bench.tokens[2] == alone(prompt(4 * CHUNK))


def test_what_was_generated_is_not_taken_over():
    """A conversation goes on with what the model has said: that has gone through steps, which have other bits."""
    first = prompt(CHUNK + 9)
    bench = Bench().submit(1, first, 2 * CHUNK).drain()
    longer = [*first, *bench.tokens[1], 5, 5]
    bench.submit(2, longer).drain()
    assert bench.reused == CHUNK
    assert bench.tokens[2] == alone(longer)


@pytest.mark.parametrize("length", [3, CHUNK, 2 * CHUNK + 30])
@pytest.mark.parametrize("count", [2, SLOTS - 1, 2 * SLOTS])
def test_choices_of_one_prompt_cost_one_reading(length, count):
    """All at once, with seeds of their own, and more of them than slots."""
    bench = Bench()
    for number in range(count):
        bench.submit(number, prompt(length), 20, Sampling(logprobs=2), seed=number, request=5)
    bench.drain()
    assert bench.read == length
    assert bench.reused == (count - 1) * length
    for number in range(count):
        assert bench.tokens[number] == alone(prompt(length), max_tokens=20, sampling=Sampling(), seed=number)


def test_the_same_prompt_again_costs_nothing():
    bench = Bench().submit(1, prompt(150)).drain()
    bench.submit(2, prompt(150)).drain()
    assert (bench.read, bench.reused) == (150, 150)
    assert bench.tokens[1] == bench.tokens[2]


def test_two_conversations_that_take_turns_are_both_remembered():
    """Though the lowest slot is free each time, and is the one that is used."""
    bench, live = Bench(), []
    original = bench.runner.steps
    bench.runner.steps = lambda rows, *rest: live.append(len(rows)) or original(rows, *rest)
    for round_, kind in itertools.product(range(3), range(3)):
        bench.submit(10 * round_ + kind, prompt((round_ + 1) * CHUNK + 9, kind)).drain()
    assert bench.reused == 3 * (1 + 2) * CHUNK
    assert set(live) == {1}, "a step computes the lowest row alone"
    for number, tokens in bench.tokens.items():
        assert tokens == alone(prompt((number // 10 + 1) * CHUNK + 9, number % 10))


def test_who_reads_alike_at_once_follows_the_first_and_does_not_wait_for_its_end(monkeypatch):
    monkeypatch.setattr(pace, "TICK_TOKENS", CHUNK)
    bench = Bench().submit(1, prompt(6 * CHUNK)).submit(2, [*prompt(CHUNK), *prompt(9, 5)])
    bench.tick()
    bench.tick()
    assert bench.tokens[2]
    assert not bench.tokens[1]
    bench.drain()
    assert bench.reused == CHUNK
    assert bench.tokens[2] == alone([*prompt(CHUNK), *prompt(9, 5)])


def test_who_was_followed_may_leave(monkeypatch):
    monkeypatch.setattr(pace, "TICK_TOKENS", CHUNK)
    bench = Bench()
    for number in (1, 2, 3):
        bench.submit(number, prompt(4 * CHUNK + 9))
    bench.tick()
    bench.batcher.cancel({1})
    bench.drain()
    assert bench.tokens[2] == bench.tokens[3] == alone(prompt(4 * CHUNK + 9))
    assert bench.read == 4 * CHUNK + 9, "the one that goes on takes over what had been read"


def test_what_a_failed_sequence_leaves_is_not_taken_over():
    bad = [fakes.MARK, ord("N"), *prompt(2 * CHUNK)]
    bench = Bench().submit(1, bad).drain()
    assert bench.errors == {1: "the model's output is not finite"}
    bench.submit(2, bad).drain()
    assert bench.reused == 0
    assert bench.errors.keys() == {1, 2}


def test_after_a_step_that_raised_nothing_is_taken_over():
    bench = Bench().submit(1, prompt(CHUNK + 9), 4).drain()
    bad = [fakes.MARK, ord("S"), *prompt(CHUNK, 3)]
    bench.submit(2, bad, 10).drain()
    assert bench.errors == {2: "the model raised ValueError"}
    bench.submit(3, prompt(CHUNK + 9), 4).drain()
    assert bench.reused == 0
    assert bench.tokens[3] == bench.tokens[1]


@pytest.mark.parametrize("network", [fakes.Grained, fakes.Recurrent])
def test_prompts_that_raise_among_others_fail_alone(network):
    bench = Bench(network(max_length=512))
    bad = [fakes.MARK, ord("P"), *prompt(100)]
    for number in range(4):
        bench.submit(number, bad if number == 2 else prompt(80 + number, number))
    bench.drain()
    assert bench.errors == {2: "the model raised ValueError on the prompt"}
    for number in (0, 1, 3):
        assert bench.tokens[number] == alone(prompt(80 + number, number), network(max_length=512))


def test_a_copy_that_fails_is_read_instead(caplog):
    bench = Bench().submit(1, prompt(100), 40)
    bench.tick()
    bench.runner.take_over = lambda *_: 1 / 0
    bench.submit(2, prompt(100), 40).drain()
    assert bench.tokens[2] == bench.tokens[1]
    assert bench.read == 200
    assert "can't take over" in caplog.text


def test_random_company_with_everything_that_can_be_taken_over(monkeypatch):
    rng = random.Random(3)
    monkeypatch.setattr(pace, "TICK_TOKENS", CHUNK)
    bench, asked = Bench(slots=5), {}
    for number in range(60):
        base = prompt(rng.choice([40, CHUNK, 150, 200]), rng.randrange(2))
        asked[number] = base + prompt(rng.randrange(60), rng.randrange(3))[::-1]
        bench.submit(number, asked[number], rng.randrange(1, 20))
        for _ in range(rng.randrange(4)):
            if bench.batcher.waiting:
                bench.tick()
        if rng.random() < 0.1:
            bench.batcher.cancel({rng.randrange(number + 1)})
    bench.drain()
    assert bench.reused > bench.read / 4
    for number in bench.ends:
        assert bench.tokens[number] == alone(asked[number], max_tokens=len(bench.tokens[number])), number


# real networks


def gpt():
    return GPT(vocab_size=96, max_length=256, width=64, layers=2, heads=4)


def llama():
    return Llama(
        vocab_size=96, max_length=256, width=64, layers=2, heads=4, key_heads=2, head_dim=16, feed_width=96, tied=True
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [gpt, llama])
def test_the_tokens_of_real_networks_do_not_depend_on_what_was_taken_over(make, dtype):
    torch.manual_seed(1)
    network = make().eval().requires_grad_(False).to(dtype)
    network.embedding.weight.mul_(20)  # logits that are not all alike
    sampling = Sampling(temperature=1.5, logprobs=3)
    asked = [[token % 96 for token in prompt(length, kind)] for length in (9, 70, 150) for kind in (1, 2)]
    wanted = [alone(tokens, network, max_tokens=30, sampling=sampling) for tokens in asked]
    bench = Bench(network)
    for round_ in range(3):
        for number, tokens in enumerate(asked):
            bench.submit(10 * round_ + number, tokens, 30, sampling)
            bench.tick()
    bench.drain()
    assert bench.reused > 2 * CHUNK
    for round_, (number, tokens) in itertools.product(range(3), enumerate(wanted)):
        assert bench.tokens[10 * round_ + number] == tokens
    assert len({tuple(tokens) for tokens in wanted}) == len(wanted)
