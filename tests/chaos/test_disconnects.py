"""Clients that leave, at every stage of a request: what they asked for is given up, and nobody else notices."""

import asyncio

import pytest

from tests.chaos import asks
from tests.chaos.clients import clients, leave
from tests.chaos.hold import hold
from tests.chaos.server import SLOTS, metric
from tests.serving import eventually

CROWD = 16
HOLD_SECONDS = 0.6


def head_alone(url, reset):
    return leave(url, asks.picture(1).raw()[:40], reset=reset)


def half_a_body(url, reset):
    return leave(url, asks.picture(1).raw()[:-5], reset=reset)


def body_sent(url, reset):
    """Gone while the request is queued or computed."""
    return leave(url, asks.slow(0.01).raw(), linger=0.05, reset=reset)


def answer_coming(url, reset):
    """Gone after the first kilobyte of megabytes."""
    return leave(url, asks.picture(1, 8, "wide").raw(), read=1024, reset=reset)


def stream_coming(url, reset):
    return leave(url, asks.text("a", 400, mark="\x01Z", stream=True).raw(), read=600, reset=reset)


def text_coming(url, reset):
    """Gone while a text is made that would have come in one piece."""
    return leave(url, asks.text("a", 400, mark="\x01Z").raw(), linger=0.2, reset=reset)


def sound_coming(url, reset):
    return leave(url, asks.speech("a~", 3.9, stream=True).raw(), read=600, reset=reset)


def codes_coming(url, reset):
    """Gone while one model writes what another was to paint."""
    return leave(url, asks.caption("red dog", 48).raw(), linger=0.02, reset=reset)


STAGES = (head_alone, half_a_body, body_sent, answer_coming, stream_coming, text_coming, sound_coming, codes_coming)


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("stage", STAGES)
async def test_clients_that_leave(server, stage, reset):
    """A crowd leaves; those who stay get their own."""
    async with clients(server.url) as staying:
        stay = [asks.picture(seed, 2) for seed in range(12)] + [asks.text(c, 20, stream=True) for c in "abcd"]
        _, outcomes = await asyncio.gather(
            asyncio.gather(*(stage(server.url, reset) for _ in range(CROWD))), staying.ask_all(stay)
        )
    assert {str(outcome) for outcome in outcomes} == {"answered 200"}


async def test_what_departed_clients_asked_for_is_not_computed(server):
    """The device is held up; of what waited for it, only the rows of those who stayed are computed."""
    images, cancelled = metric(server, "genserve_images_total"), metric(server, "genserve_cancelled_total")
    async with clients(server.url) as staying:
        held = await hold(server, staying, HOLD_SECONDS)
        gone = [leave(server.url, asks.picture(seed, 16).raw(), linger=0.1, reset=seed % 2 == 0) for seed in range(8)]
        stays = asyncio.ensure_future(staying.ask(asks.picture(99, 2)))
        await asyncio.gather(*gone)
        assert [str(await stays), *map(str, await held)] == ["answered 200"] * 2
    await eventually(lambda: metric(server, "genserve_cancelled_total") == cancelled + 8)
    assert metric(server, "genserve_images_total") == images + 3


async def test_departed_readers_free_their_slots_for_those_who_wait(server):
    """All slots are taken by streams of seconds; when their readers go, who waited is served before they could end."""
    tokens = metric(server, "genserve_tokens_total", kind="completion")
    streams = [asks.text("a", 480, mark="\x01Z", stream=True).raw() for _ in range(SLOTS)]
    async with clients(server.url) as staying:
        readers = [asyncio.ensure_future(leave(server.url, data, read=300, linger=0.2)) for data in streams]
        await eventually(lambda: metric(server, "genserve_slots_busy") >= SLOTS - 2)
        assert str(await staying.ask(asks.text("q", 5))) == "answered 200"
        await asyncio.gather(*readers)
    await eventually(lambda: metric(server, "genserve_slots_busy") == 0)
    made = metric(server, "genserve_tokens_total", kind="completion") - tokens
    assert made < SLOTS * 480 / 2, "the streams ran on without their readers"
