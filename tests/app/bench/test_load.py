"""The asynchronous client against a service that does as it is told; no clock decides."""

import itertools
import json
import resource

import pytest

from app.bench import load, target
from tests.app.bench.conftest import EVENTS


def test_arrivals_are_the_same_for_the_same_seed_and_poisson():
    moments = list(load.arrivals(50.0, 100.0, 7))
    assert moments == list(load.arrivals(50.0, 100.0, 7)) != list(load.arrivals(50.0, 100.0, 8))
    assert moments == sorted(moments)
    assert moments[0] > 0
    assert moments[-1] < 100
    gaps = [b - a for a, b in itertools.pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1 / 50, rel=0.1)
    assert sum((gap - mean) ** 2 for gap in gaps) / len(gaps) == pytest.approx(mean**2, rel=0.2)  # exponential
    assert list(load.arrivals(0.001, 1.0, 7)) == []


async def test_a_closed_loop_counts_each_status(service):
    service.statuses = [429, 500, 0, 302]
    result = await load.closed_loop(target.picture(service.url, "gan", n=2), 4, 1.0)
    assert (result.refused, result.failed) == (1, 3)
    assert result.answered == result.in_time > 0
    assert 0 < result.p50 <= result.p90 <= result.p99 <= result.max
    assert (result.mode, result.clients, result.offered, result.client) == ("closed", 4, None, "aiohttp")
    assert result.seconds >= 1
    assert result.client_cpu_seconds > 0
    assert json.loads(service.bodies[0]) == {"model": "gan", "n": 2}


async def test_what_is_in_flight_at_the_end_of_a_closed_loop_is_not_counted(service):
    service.hold = 30
    result = await load.closed_loop(target.picture(service.url, "gan"), 2, 0.2)
    assert (result.answered, result.refused, result.failed) == (0, 0, 0)
    assert (result.p50, result.max, result.throughput) == (None, None, 0.0)


async def test_a_service_that_is_gone_fails_every_request():
    result = await load.closed_loop(target.picture("http://127.0.0.1:1", "gan"), 1, 0.2)
    assert result.answered == 0
    assert result.failed > 0


async def test_an_open_loop_sends_all_and_waits_for_the_answers(service):
    service.statuses, service.hold = [429, 500], 0.2
    result = await load.open_loop(target.picture(service.url, "gan"), 100.0, 0.5, 7)
    sent = len(list(load.arrivals(100.0, 0.5, 7)))
    assert (result.answered + 2, result.refused, result.failed) == (sent, 1, 1)
    assert (result.mode, result.offered, result.seconds) == ("open", 100.0, 0.5)
    assert result.tail_seconds >= 0
    assert result.p50 >= 0.2
    assert 1 < result.clients <= sent


async def test_an_open_loop_has_a_bound(service, monkeypatch):
    monkeypatch.setattr(load, "MAX_OUTSTANDING", 3)
    service.hold = 1.0
    result = await load.open_loop(target.picture(service.url, "gan"), 200.0, 0.2, 7)
    assert result.clients == 3
    assert result.answered + result.failed == len(list(load.arrivals(200.0, 0.2, 7)))
    assert result.failed > 0


async def test_texts_are_read_to_their_ends(service):
    service.statuses = [429, 503]
    result = await load.text_closed_loop(target.text(service.url, "gpt", max_tokens=9), 2, 0.3)
    assert (result.refused, result.failed) == (1, 1)
    assert result.answered >= result.in_time > 0
    assert result.tokens_per_second > 0
    assert 0 < result.first_p50 <= result.first_p99
    assert 0 <= result.between_p50 <= result.between_p99
    assert result.stream_tokens_per_second > 0
    assert json.loads(service.bodies[0])["max_tokens"] == 9


@pytest.mark.parametrize("change", [{"done": False}, {"events": [*EVENTS, {"no": "text"}]}])
async def test_a_text_that_breaks_off_has_failed(service, change):
    vars(service).update(change)
    result = await load.text_closed_loop(target.text(service.url, "gpt"), 1, 0.1)
    assert result.answered == 0
    assert result.failed > 0
    assert (result.tokens_per_second, result.first_p50, result.stream_tokens_per_second) == (0, None, None)


def test_open_files_are_asked_for(monkeypatch):
    limits = [(256, 1024)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    assert load.open_files(100) == 100
    assert limits == [(256, 1024)]
    assert load.open_files(900) == 900
    assert limits[-1] == (964, 1024)
    assert load.open_files(5000) == 1024 - load.SPARE_FILES
    limits.append((256, resource.RLIM_INFINITY))
    assert load.open_files(5000) == 5000
    limits.append((resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert load.open_files(10**6) == 10**6
