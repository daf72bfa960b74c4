"""A second run of a job repeats the first: nothing comes twice, nothing is lost."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.flight import Strand
from app.engine.jobs import Chunk, Logprob


def strand():
    return Strand(*[None] * 8, submitted=0.0)


def cut(tokens, places):
    edges = [0, *sorted(places), len(tokens)]
    return [tokens[a:b] for a, b in itertools.pairwise(edges)]


TOKENS = tuple(range(12))


@given(st.lists(st.integers(0, 12), max_size=4), st.integers(0, 5), st.lists(st.integers(0, 12), max_size=4))
def test_same_tokens_however_both_runs_are_cut(first, seen, second):
    flight, got = strand(), []
    for tokens in cut(TOKENS, first)[:seen]:
        got += flight.take(Chunk(1, tokens)).tokens
    flight.restart()
    *pieces, last = cut(TOKENS, second)
    for tokens in pieces:
        if (chunk := flight.take(Chunk(1, tokens))) is not None:
            got += chunk.tokens
    chunk = flight.take(Chunk(1, last, finish="length"))
    assert chunk is not None
    assert chunk.finish == "length"
    assert tuple(got + list(chunk.tokens)) == TOKENS


def test_log_probabilities_are_skipped_with_their_tokens():
    flight = strand()
    scores = tuple(Logprob(-float(i)) for i in range(3))
    flight.take(Chunk(1, (0, 1), scores[:2]))
    flight.restart()
    chunk = flight.take(Chunk(1, (0, 1, 2), scores))
    assert (chunk.tokens, chunk.logprobs) == ((2,), scores[2:])


@pytest.mark.parametrize("times", [1, 2, 3])
def test_any_number_of_restarts(times):
    flight = strand()
    flight.take(Chunk(1, (0, 1)))
    for _ in range(times):
        flight.restart()
        assert flight.take(Chunk(1, (0,))) is None
    assert flight.take(Chunk(1, (1, 2))).tokens == (2,)
