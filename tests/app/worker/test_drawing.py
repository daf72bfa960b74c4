"""Rows of every kind in one tick: each draws what it would alone, and what is not a number is told by row."""

import numpy as np
import pytest
import torch

from app.engine.jobs import Sampling
from app.worker.drawing import TOP, Drawing
from app.worker.row import Row
from app.worker.tally import Tally

CPU = torch.device("cpu")
VOCAB, COUNT = 700, 3
GREEDY = Sampling(temperature=0.0)
ODD = np.arange(VOCAB) % 2 == 1
ROWS = (
    Row(0, 4, 1, GREEDY),
    None,
    Row(0, 5, 2, Sampling()),
    Row(0, 6, 3, Sampling(temperature=0.7, top_k=20, logprobs=5)),
    Row(0, 7, 4, Sampling(temperature=0.0, repetition_penalty=1.5, frequency_penalty=0.5)),
    Row(0, 8, 5, Sampling(top_p=0.6, bias=((9, 4.0), (11, -50.0)))),
    Row(0, 9, 6, GREEDY, forced=(5, 6)),
    Row(0, 10, 7, Sampling(temperature=0.0, logprobs=2), barred=(1, 2, 3), barred_for=2),
    Row(0, 11, 8, GREEDY, allowed=ODD),
    Row(0, 12, 9, Sampling(min_p=0.2, presence_penalty=1.0), allowed=~ODD, forced=(8,)),
)


def logits(dtype=torch.float32):
    made = torch.randn(COUNT, len(ROWS), VOCAB, generator=torch.Generator().manual_seed(0)) * 3
    made[:, 7, 1:4] += 20  # what this row may not say yet
    return made.to(dtype)


def draw(rows, slots, given):
    tally = Tally(len(ROWS), VOCAB, CPU)
    for row, slot in zip(rows, slots, strict=True):
        if row is not None:
            tally.prepare(slot, [1, 2, 50], row.sampling)
    drawing = Drawing(rows, slots, COUNT, tally, CPU)
    for step in given:
        drawing.take(step)
    return drawing.finish()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_row_draws_what_it_would_alone(dtype):
    given = logits(dtype)
    together = draw(ROWS, range(len(ROWS)), given)
    for place, row in enumerate(ROWS):
        if row is not None:
            alone = draw([row], [place], given[:, place : place + 1])
            assert together.tokens[place].tolist() == alone.tokens[0].tolist(), row
            assert together.logprobs[place] == (alone.logprobs[0] if alone.logprobs else [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_each_asks_for_is_done(dtype):
    given, steps = logits(dtype), draw(ROWS, range(len(ROWS)), logits(dtype))
    assert steps.tokens[0].tolist() == given[:, 0].float().argmax(-1).tolist()
    assert steps.tokens[6].tolist() == [5, 6, int(given[2, 6].float().argmax())]
    assert not set(steps.tokens[7, :2].tolist()) & {1, 2, 3}
    assert steps.tokens[7, 2] in {1, 2, 3}, "barred for two steps"
    assert all(token % 2 == 1 for token in steps.tokens[8].tolist())
    assert steps.tokens[9, 0] == 8
    assert all(token % 2 == 0 for token in steps.tokens[9].tolist())
    assert [len(of_row) for of_row in steps.logprobs] == [0, 0, 0, COUNT, 0, 0, 0, COUNT, 0, 0]
    assert [len(steps.logprobs[row][0].top) for row in (3, 7)] == [5, 2]
    assert steps.finite.all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", range(len(ROWS)))
def test_a_row_that_is_not_finite_is_told_and_its_neighbours_are_not(value, place):
    given = logits()
    wanted = draw(ROWS, range(len(ROWS)), given).tokens
    given[1, place, 77] = value
    steps = draw(ROWS, range(len(ROWS)), given)
    assert steps.finite.tolist() == [other != place for other in range(len(ROWS))]
    kept = [other for other in range(len(ROWS)) if other != place]
    assert steps.tokens[kept].tolist() == wanted[kept].tolist()


def test_equals_have_the_same_order_for_whoever_asks_for_few_or_many():
    flat = torch.zeros(COUNT, 2, VOCAB)
    few, many = Row(0, 4, 1, Sampling(temperature=0.0, logprobs=1)), Row(0, 4, 1, Sampling(logprobs=TOP))
    alone = draw([few], [0], flat[:, :1]).logprobs[0]
    assert draw([few, many], [0, 1], flat).logprobs[0] == alone


def test_greedy_rows_alone_copy_nothing():
    drawing = Drawing([ROWS[0], None], [0, 1], 1, Tally(2, VOCAB, CPU), CPU)
    assert drawing._own is None
