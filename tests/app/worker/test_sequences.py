"""The runner: exact row counts and spans, slots without memory of their past, and steps that are prefill's equal."""

import dataclasses

import numpy as np
import pytest
import torch

from app.engine.jobs import Sampling
from app.worker.faults import DeviceLost
from app.worker.pieces import CHUNK, Piece, piece_end
from app.worker.row import Row
from app.worker.runner import ModelFault
from app.worker.sequences import SequenceRunner, state_bytes
from models.gpt import GPT
from tests import fake_sequences as fakes

CPU = torch.device("cpu")
GREEDY = Sampling(temperature=0.0)


def runner(network=None, slots=8, **config):
    return SequenceRunner(network or fakes.Digest(**config), CPU, slots)


def never():
    return False


def pieces(slot, prompt, row, start=0):
    """The pieces of a prompt, from a position on."""
    prompt = np.array(prompt)
    while start < len(prompt):
        end = piece_end(start, len(prompt))
        yield Piece(slot, prompt, start, end, row if end == len(prompt) else None)
        start = end


def read(made, slot, prompt, row):
    """What the last piece of a prompt gives."""
    for piece in pieces(slot, prompt, row):
        steps = made.read([piece])
    return steps


def start(made, slot, prompt, chosen=GREEDY, seed=0, forced=()):
    """Prefill a slot; gives the row after it and the token."""
    steps = read(made, slot, prompt, Row(prompt[-1], len(prompt) - 1, seed, chosen, forced))
    token = int(steps.tokens[0, 0])
    return Row(token, len(prompt), seed, chosen, forced[1:]), token


def advance(row, tokens):
    return dataclasses.replace(
        row, token=tokens[-1], position=row.position + len(tokens), forced=row.forced[len(tokens) :]
    )


def alone(prompt, count, chosen=GREEDY, seed=0, network=None):
    """The tokens of a sequence that has the device to itself, one step a tick."""
    made = runner(network)
    row, token = start(made, 0, prompt, chosen, seed)
    out = [token]
    while len(out) < count:
        new = made.steps([row], 1, never).tokens[0].tolist()
        out += new
        row = advance(row, new)
    return out


# what is exact


def test_all_row_counts_and_spans_of_an_exact_model_are_used():
    made = runner(slots=8, max_length=300)
    assert made.slots == 8
    assert made.buckets == (1, 2, 4, 8)
    assert made.spans == (*range(32, 300, 32), 300)
    assert [made.span_for(reach) for reach in (1, 32, 33, 289, 300, 310)] == [32, 32, 64, 300, 300, 300]
    assert [made.bucket_for(rows) for rows in (1, 2, 3, 5, 8)] == [1, 2, 4, 8, 8]


def test_small_row_counts_with_other_bits_are_not_used():
    assert runner(fakes.FewRowsDiffer(), slots=16).buckets == (4, 8, 12, 16)


def test_short_spans_with_other_bits_are_not_used():
    assert runner(fakes.ShortSpansDiffer(max_length=300)).spans == (256, 300)


@pytest.mark.parametrize("slots", [2, 3, 4, 5, 8])
def test_a_model_whose_rows_depend_on_their_place_runs_one_at_a_time(slots):
    made = runner(fakes.PlacesDiffer(), slots=slots)
    assert (made.slots, made.buckets) == (1, (1,))
    row, _ = start(made, 0, [5, 6])
    assert made.steps([row], 3, never).tokens.shape == (1, 3)


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 7])
def test_any_number_of_slots(slots):
    made = runner(slots=slots)
    assert made.slots == made.buckets[-1] == slots
    row, _ = start(made, slots - 1, [5, 6])
    assert made.steps([*[None] * (slots - 1), row], 2, never).tokens.shape == (slots, 2)


def test_a_model_of_the_wrong_shape_is_refused():
    with pytest.raises(ModelFault, match=r"step gives \[8, 259\] for 8 rows; \[8, 260\] expected"):
        runner(fakes.TooNarrow())


@pytest.mark.parametrize("error", [RuntimeError, IndexError, ValueError, TypeError])
def test_a_model_that_raises_at_warm_up_is_refused(error):
    class Raises(fakes.Digest):
        def step(self, *_):
            raise error("out of order")

    with pytest.raises(ModelFault, match="the warm-up of the sequence model failed: out of order"):
        runner(Raises())


def test_memory_is_counted():
    made = runner(slots=8, max_length=128)
    assert made.state_bytes == 8 * 128 * 8 * 2 + 8 * 8 * 2
    tensor = torch.zeros(3, dtype=torch.float16)
    assert state_bytes({"a": [tensor, (tensor,)], "b": "not a tensor"}) == 12
    assert (
        state_bytes(GPT(vocab_size=8, max_length=4, width=8, layers=2, heads=2).init_state(3)) == 2 * 2 * 3 * 4 * 8 * 4
    )


def test_warming_up_leaves_nothing_behind():
    made = runner()
    assert not made._state.tokens.any()


def test_its_speed_is_measured():
    assert runner().step_seconds > 0


# slots


@pytest.mark.parametrize("chosen", [GREEDY, Sampling(), Sampling(temperature=1.3, top_k=50, top_p=0.9)])
@pytest.mark.parametrize("slot", [0, 3, 7])
def test_neighbours_and_slots_change_nothing(chosen, slot):
    wanted = alone([9, 8, 7], 13, chosen, seed=5)
    made = runner()
    rows = [None] * 8
    for other in {1, slot, 6}:
        prompt, seed = ([9, 8, 7], 5) if other == slot else ([other + 20] * (other + 1), other)
        rows[other], token = start(made, other, prompt, chosen if other == slot else Sampling(top_k=3), seed)
        if other == slot:
            got = [token]
    for count in (4, 8):
        new = made.steps(rows, count, never).tokens
        got += new[slot].tolist()
        rows = [row if row is None else advance(row, new[i].tolist()) for i, row in enumerate(rows)]
    assert got == wanted


def test_pieces_lie_on_a_grid_and_are_padded_to_the_longest_of_a_call():
    seen = []

    class Watching(fakes.Digest):
        def prefill(self, tokens, starts, lengths, slots, state):
            seen.append((tuple(tokens.shape), starts, lengths, slots))
            return super().prefill(tokens, starts, lengths, slots, state)

    made = runner(Watching(max_length=300))
    seen.clear()
    start(made, 2, list(range(CHUNK + 7)))
    assert seen == [((1, CHUNK), [0], [CHUNK], [2]), ((1, 7), [CHUNK], [7], [2])]
    seen.clear()
    made.read([Piece(4, np.arange(9), 0, 9, None), Piece(2, np.arange(CHUNK + 20), CHUNK, CHUNK + 20, None)])
    assert seen == [((2, 20), [0, CHUNK], [9, 20], [4, 2])]


def test_the_span_covers_every_step_of_a_tick():
    spans = []

    class Watching(fakes.Digest):
        def step(self, tokens, positions, span, state):
            spans.append((int(positions.max()), span))
            return super().step(tokens, positions, span, state)

    made = runner(Watching(max_length=300))
    row, _ = start(made, 0, [1] * 60)
    spans.clear()
    made.steps([row], 4, never)
    assert spans == [(60, 64), (61, 64), (62, 64), (63, 64)]
    made.steps([row], 5, never)
    assert {span for _, span in spans[4:]} == {96}


def test_a_row_that_is_over_before_the_others_stays_inside_its_slot():
    made = runner(max_length=64)
    row, _ = start(made, 0, list(range(62)))
    other, _ = start(made, 1, [1, 2])
    tokens = made.steps([row, other], 8, never).tokens
    assert tokens.shape == (2, 8)
    assert tokens[1].tolist() == alone([1, 2], 9, network=fakes.Digest(max_length=64))[1:]


@pytest.mark.parametrize("after", [1, 3, 8])
def test_an_interrupted_tick_gives_what_it_has(after):
    made = runner()
    row, token = start(made, 0, [4, 5])
    asked = iter(range(1, 100))
    steps = made.steps([row], 8, lambda: next(asked) >= after)
    assert steps.tokens.shape == (1, after)
    assert [token, *steps.tokens[0].tolist()] == alone([4, 5], after + 1)


def test_the_question_is_not_asked_after_the_last_step():
    asked = []
    made = runner()
    row, _ = start(made, 0, [4, 5])
    made.steps([row], 3, lambda: bool(asked.append(1)))
    assert len(asked) == 2


# sampling


def test_forced_tokens_are_said_and_then_the_rest_is_as_if_they_had_been_read():
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]
    for chosen in (GREEDY, Sampling(), Sampling(repetition_penalty=1.5, frequency_penalty=0.5)):
        wanted = alone(prompt, 6, chosen, seed=3)
        made = runner()
        row, token = start(made, 0, prompt[:1], chosen, 3, tuple(prompt[1:]))
        assert token == prompt[1]
        tokens = [token, *made.steps([row], 12, never).tokens[0].tolist()]
        assert tokens == prompt[1:] + wanted


def test_log_probabilities_for_those_who_ask():
    made = runner(slots=4)
    rows = [start(made, slot, [slot, 7], Sampling(logprobs=n))[0] for slot, n in enumerate((2, None, 0, 5))]
    steps = made.steps(rows, 3, never)
    assert [len(of_row) for of_row in steps.logprobs] == [3, 0, 3, 3]
    assert [len(of_row[0].top) for of_row in steps.logprobs if of_row] == [2, 0, 5]
    sums = (sum((t + 1) * w for t, w in zip([0, 7, rows[0].token], made._model._weights.tolist(), strict=False))) % 509
    wanted = torch.log_softmax(made._model._table[sums], 0)
    first = steps.logprobs[0][0]
    assert first.logprob == pytest.approx(float(wanted[steps.tokens[0, 0]]), rel=1e-5)
    assert [token for token, _ in first.top] == wanted.topk(2).indices.tolist()
    assert made.steps([rows[1]], 1, never).logprobs == []


def test_log_probabilities_ignore_bias_penalties_and_temperature():
    plain, odd = Sampling(logprobs=3), Sampling(temperature=0, bias=((9, 90.0),), frequency_penalty=2.0, logprobs=3)
    made = runner()
    first, second = (
        read(made, slot, [5, 6], Row(6, 1, 0, chosen)).logprobs[0][0] for slot, chosen in enumerate((plain, odd))
    )
    assert first.top == second.top
    assert second.logprob < -1, "the token that the bias forced was not a likely one"


def test_bias_forces_and_is_gone_with_its_sequence():
    made = runner()
    biased = Sampling(temperature=1.0, bias=((42, 100.0),))
    row, token = start(made, 3, [5, 6], biased)
    other, first = start(made, 0, [5, 6])
    steps = made.steps([other, None, None, row], 4, never)
    assert [token, *steps.tokens[3].tolist()] == [42] * 5
    assert [first, *steps.tokens[0].tolist()] == alone([5, 6], 5), "a neighbour's bias is the neighbour's"
    row, token = start(made, 3, [5, 6])
    assert [token, *made.steps([None, None, None, row], 4, never).tokens[3].tolist()] == alone([5, 6], 5)


def test_bias_is_replaced_whole():
    made = runner()
    start(made, 0, [5, 6], Sampling(bias=((42, 100.0),)))
    _, token = start(made, 0, [5, 6], Sampling(bias=((43, 50.0),)))
    assert token == 43


def test_penalties_look_at_this_sequence_and_not_at_the_slot_s_last_one():
    chosen = Sampling(temperature=0.0, frequency_penalty=2.0, presence_penalty=2.0, repetition_penalty=2.0)
    wanted = alone([5, 6], 20, chosen)
    assert wanted != alone([5, 6], 20), "the penalties do something"
    made = runner()
    row, _ = start(made, 0, [7, 8, 9], chosen)
    made.steps([row], 8, never)
    row, token = start(made, 0, [5, 6], chosen)
    got = [token]
    while len(got) < 20:
        new = made.steps([row], 7, never).tokens[0].tolist()
        got += new
        row = advance(row, new)
    assert got[:20] == wanted


def test_repetition_looks_at_the_prompt_and_frequency_does_not():
    made = runner()
    prompts = ([a, b] for a in range(20, 200) for b in range(20, 200))
    prompt = next(prompt for prompt in prompts if start(made, 0, prompt)[1] in prompt)
    said = start(made, 0, prompt)[1]
    assert start(made, 0, prompt, Sampling(temperature=0.0, repetition_penalty=10.0))[1] != said
    assert start(made, 0, prompt, Sampling(temperature=0.0, frequency_penalty=2.0, presence_penalty=2.0))[1] == said


def test_not_finite_is_told_by_row():
    made = runner()
    bad, _ = start(made, 0, [fakes.MARK, ord("N"), *[5] * 8])
    good, _ = start(made, 1, [5, 6])
    assert made.steps([bad, good], 2, never).finite.tolist() == [True, True]
    bad = dataclasses.replace(bad, position=bad.position + 2)
    good = dataclasses.replace(good, position=good.position + 2)
    assert made.steps([bad, good], 2, never).finite.tolist() == [False, True]
    assert read(made, 2, [fakes.MARK, ord("N"), *[5] * 20], Row(5, 21, 0, GREEDY)).finite.tolist() == [False]


# failing


@pytest.mark.parametrize(("kind", "error"), [(fakes.OUT_OF_MEMORY, MemoryError), (fakes.LOST, DeviceLost)])
def test_what_failed_on_the_device_is_told_apart(kind, error):
    made = runner()
    row, _ = start(made, 0, [*kind.encode(), *[60] * fakes.FUSE])
    with pytest.raises(error):
        made.steps([row], 1, never)


def test_scrubbing_overwrites_all_of_one_slot():
    made = runner(slots=2)
    for slot in range(2):
        start(made, slot, [9] * 40)
    made.scrub(0)
    assert not made._state.tokens[0].any()
    assert made._state.tokens[1].any()
