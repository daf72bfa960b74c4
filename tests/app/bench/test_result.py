"""Percentiles by nearest rank, and what counts as what."""

import dataclasses
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bench.result import Result, Tally, percentiles

RESULT = Result(
    mode="open", client="aiohttp", clients=3, offered=9.0, seconds=4.0, tail_seconds=1.0, answered=10, in_time=8,
    refused=1, failed=2, p50=0.1, p90=0.2, p99=0.3, max=0.4, client_cpu_seconds=2.5,
)  # fmt: skip


def test_percentiles_are_values_that_were_measured():
    values = [float(value) for value in range(100, 0, -1)]
    assert percentiles(values, (0.5, 0.9, 0.99, 1.0)) == [50.0, 90.0, 99.0, 100.0]
    assert percentiles([3.0], (0.0, 0.5, 1.0)) == [3.0, 3.0, 3.0]
    assert percentiles([], (0.5, 1.0)) == [None, None]


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_share_of_the_values_does_not_exceed_its_percentile(values, share):
    (found,) = percentiles(values, (share,))
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < math.ceil(share * len(values))


def test_statuses_are_told_apart():
    tally, now = Tally(), time.perf_counter()
    for status in (200, 204, 429, 500, 400, 302, 0):
        tally.count(status, now)
    assert (len(tally.latencies), tally.refused, tally.failed) == (2, 1, 4)


def test_an_answer_after_the_end_is_not_in_time():
    late = Tally(end=time.perf_counter() - 1)
    late.count(200, late.end - 1)
    assert (late.in_time, len(late.latencies)) == (0, 1)
    assert late.latencies[0] >= 2


def test_throughput_leaves_the_tail_out_and_cpu_share_does_not():
    assert RESULT.throughput == 2.0
    assert RESULT.cpu_share == 0.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        RESULT.seconds = 1.0
