"""Deadlines: kept, or told at once that they can't be; and what is too late is not computed."""

import asyncio

import pytest

from tests.chaos import asks
from tests.chaos.clients import clients
from tests.chaos.hold import hold
from tests.chaos.server import SLOTS, metric
from tests.serving import eventually

HOLD_SECONDS = 1.2


ASKS = [asks.picture(1), asks.text("a", 4), asks.text("a", 4, stream=True), asks.caption("red dog"), asks.speech("ab")]
NONE = ("", "soon", "0", "-1", "nan", "inf", "3601", "1e9", "1,2", "0x10", "1_0", "१")


@pytest.mark.parametrize("ask", ASKS)
async def test_deadlines_that_are_none(server, ask):
    async with clients(server.url) as some:
        outcomes = await some.ask_all(ask.within(given) for given in NONE)
    assert [str(outcome) for outcome in outcomes] == ["refused 400 invalid_field"] * len(NONE)
    assert all(b"X-Request-Timeout" in outcome.body for outcome in outcomes)


@pytest.mark.parametrize("ask", ASKS)
async def test_deadlines_that_are_kept(server, ask):
    async with clients(server.url) as some:
        outcomes = await some.ask_all(ask.within(given) for given in ("0.9", "5", "60", "3600"))
    assert {str(outcome) for outcome in outcomes} == {"answered 200"}


async def test_what_is_too_late_is_not_computed(server):
    """The device is held up longer than they can wait: 504 in time, and their rows never reach the network."""
    images = metric(server, "genserve_images_total")
    async with clients(server.url) as some:
        held = await hold(server, some, HOLD_SECONDS)
        late = await some.ask_all(asks.picture(seed, 4).within(0.3) for seed in range(6))
        assert metric(server, "genserve_queue_depth") == 1, "they were answered when the device was free, not in time"
        assert list(map(str, await held)) == ["answered 200"]
        assert str(await some.ask(asks.picture(1))) == "answered 200"
    assert {str(outcome) for outcome in late} <= {"refused 504 deadline_exceeded", "refused 429 overloaded"}
    assert "refused 504 deadline_exceeded" in map(str, late)
    assert metric(server, "genserve_images_total") == images + 2


async def test_waits_that_do_not_fit_are_refused_at_once(server):
    """Seconds of work are queued; who has less time than that is told so, and when to come again."""
    async with clients(server.url) as some:
        work = asyncio.ensure_future(some.ask_all(asks.picture(seed, 64).within(3600) for seed in range(40)))
        await eventually(lambda: metric(server, "genserve_queue_depth") >= 1500)
        refused = await some.ask_all(asks.picture(seed).within(0.05) for seed in range(4))
        assert {str(outcome) for outcome in await work} == {"answered 200"}
    kinds = {str(outcome) for outcome in refused}
    assert kinds <= {"refused 429 overloaded", "refused 504 deadline_exceeded", "answered 200"}
    told = [outcome for outcome in refused if outcome.status == 429]
    assert told, f"nobody was refused: {kinds}"
    assert all(int(outcome.headers["retry-after"]) >= 1 for outcome in told)
    assert all(0 < outcome.retry_after <= int(outcome.headers["retry-after"]) for outcome in told)


async def test_a_text_that_is_too_late_frees_its_slot(server):
    """Two seconds of text in half a second: 504, and the slot is another's."""
    async with clients(server.url) as some:
        late = await some.ask_all([asks.text("a", 400, mark="\x01Z").within(0.5)] * SLOTS)
        await eventually(lambda: metric(server, "genserve_slots_busy") == 0)
        assert str(await some.ask(asks.text("b", 10))) == "answered 200"
    assert {str(outcome) for outcome in late} <= {"refused 504 deadline_exceeded", "refused 429 overloaded"}


@pytest.mark.parametrize("stream", [False, True])
async def test_speech_that_is_too_late_frees_its_slot(server, stream):
    """Two seconds of work in less than one: of a stream, only the first sample has to be there by then."""
    async with clients(server.url) as some:
        outcome = await some.ask(asks.speech("a~", 0.9, stream=stream).within(0.8))
        await eventually(lambda: metric(server, "genserve_slots_busy") == 0)
        assert str(await some.ask(asks.speech("b", 0.1))) == "answered 200"
    assert str(outcome) == ("answered 200" if stream else "refused 504 deadline_exceeded")


async def test_a_stream_that_has_begun_in_time_may_last(server):
    """The deadline is for the first token."""
    async with clients(server.url) as some:
        outcome = await some.ask(asks.text("a", 150, mark="\x01Z", stream=True).within(1))
    assert str(outcome) == "answered 200"
    assert outcome.seconds > 1


async def test_a_stream_that_does_not_begin_in_time(server):
    """It has not sent anything by then, so it can say so with its status."""
    async with clients(server.url) as some:
        held = await hold(server, some, HOLD_SECONDS)
        late = await some.ask(asks.text("a", 10, stream=True).within(0.3))
        await held
    assert str(late) in ("refused 504 deadline_exceeded", "broken 200 deadline_exceeded", "refused 429 overloaded")
