"""One client with a flood and a small one beside it, told apart by address: judged by the order of answers."""

import asyncio

from tests.chaos import asks
from tests.chaos.clients import clients
from tests.chaos.hold import hold
from tests.chaos.server import SLOTS, metric
from tests.serving import eventually

HOLD_SECONDS = 0.6
LONG = 3600  # the floods are admitted, all of them, whatever wait is foreseen
SMALL = "127.0.0.1"
LARGE = "127.0.0.2"


async def order(server, flood, small, queued):
    """Who was answered when: the flood was there first, all of it, before the small client's first request."""
    answered = []

    async def one(some, ask):
        outcome = await some.ask(ask.within(LONG))
        assert str(outcome) == "answered 200"
        answered.append(outcome.client)

    async with clients(server.url, source=LARGE) as large, clients(server.url, source=SMALL) as other:
        held = await hold(server, large, HOLD_SECONDS)
        many = [asyncio.ensure_future(one(large, ask)) for ask in flood]
        await eventually(lambda: metric(server, "genserve_queue_depth") >= queued)
        await asyncio.gather(*(one(other, ask) for ask in small))
        await asyncio.gather(*many)
        await held
    return answered


async def test_many_requests_of_one_client_do_not_hold_up_another(server):
    """200 against 5: taking turns, the five are done when the flood has had about as many; in a queue, after it all."""
    flood = [asks.picture(seed) for seed in range(200)]
    answered = await order(server, flood, [asks.picture(9_000 + seed) for seed in range(5)], 201)
    assert answered.index(SMALL) < 60
    assert len(answered) - answered[::-1].index(SMALL) < 120, answered


async def test_large_requests_of_one_client_do_not_hold_up_another(server):
    """20 requests of 64 pictures against 5 of one."""
    flood = [asks.picture(100 * seed, 64) for seed in range(20)]
    answered = await order(server, flood, [asks.picture(9_000 + seed) for seed in range(5)], 1 + 20 * 64)
    assert len(answered) - answered[::-1].index(SMALL) <= 10, answered


async def test_many_texts_of_one_client_leave_slots_to_another(server):
    """Eight times as many requests as slots, against one: it has a slot before the flood has had two each."""
    flood = [asks.text(chr(ord("a") + place % 26), 30, mark="\x01Z") for place in range(8 * SLOTS)]
    answered = await order(server, flood, [asks.text("Q", 30)], len(flood) + 1)
    assert answered.index(SMALL) < 2 * SLOTS, answered


async def test_one_large_text_request_leaves_slots_to_another(server):
    """64 choices in one request, and another client's short text."""
    answered = await order(server, [asks.text("a", 60, n=32)] * 2, [asks.text("Q", 8)] * 3, 65)
    assert answered[:3] == [SMALL] * 3
