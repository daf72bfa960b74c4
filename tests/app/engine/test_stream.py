"""The tokens of one request: every sequence's chunks in order, one end for all, and leaving early is counted once."""

import asyncio

import pytest

from app.engine.jobs import Chunk
from app.engine.stream import TokenStream
from app.errors import ComputeFailed, InvalidField, Overloaded, WorkerDied


class Bench:
    def __init__(self, count):
        self.given_up, self.left = [], 0
        self.stream = TokenStream(count, self.given_up.append, self.leave)

    def leave(self):
        self.left += 1

    def put(self, index, *tokens, **rest):
        self.stream.put(index, Chunk(100 + index, tokens, **rest))

    async def rest(self):
        return [(index, chunk.tokens) async for index, chunk in self.stream]


async def test_chunks_come_in_order_and_end_with_the_last_sequence():
    bench = Bench(2)
    bench.put(0, 1, 2)
    bench.put(1, 3)
    bench.put(1, finish="length")
    bench.put(0, 4, finish="stop")
    assert await bench.rest() == [(0, (1, 2)), (1, (3,)), (1, ()), (0, (4,))]
    assert await bench.rest() == []
    bench.stream.close()
    assert (bench.given_up, bench.left) == ([], 0)


async def test_it_waits_for_what_has_not_come():
    bench = Bench(1)
    waiting = asyncio.ensure_future(bench.rest())
    await asyncio.sleep(0)
    assert not waiting.done()
    bench.put(0, 1, finish="length")
    assert await waiting == [(0, (1,))]


async def test_no_sequences_no_chunks():
    assert await Bench(0).rest() == []


async def test_a_cancelled_sequence_is_given_up_and_its_late_chunks_are_dropped():
    bench = Bench(2)
    bench.put(0, 1)
    bench.put(1, 2)
    bench.stream.cancel(0)
    bench.put(1, 3, finish="length")
    assert await bench.rest() == [(1, (2,)), (1, (3,))]
    assert (bench.given_up, bench.left) == ([0], 0), "a stop string is no client that left"


async def test_cancelling_the_last_one_ends_it():
    bench = Bench(1)
    bench.put(0, 1)
    async for _ in bench.stream:
        bench.stream.cancel(0)
    assert bench.given_up == [0]


async def test_closing_gives_up_what_is_open_and_counts_one_departure():
    bench = Bench(3)
    bench.put(1, 1, finish="length")
    await anext(bench.stream)
    bench.stream.close()
    bench.stream.close()
    assert sorted(bench.given_up) == [0, 2]
    assert bench.left == 1
    assert await bench.rest() == []


async def test_an_error_of_one_sequence_ends_all():
    bench = Bench(3)
    bench.put(0, 1)
    bench.put(1, error="the model raised ValueError")
    assert (await anext(bench.stream))[0] == 0
    with pytest.raises(ComputeFailed, match="raised ValueError"):
        await anext(bench.stream)
    assert {0, 2} <= set(bench.given_up), "of an answer that has failed, nothing more is wanted"
    bench.stream.close()
    assert bench.left == 0, "nobody left"


async def test_a_grammar_that_is_wrong_is_the_request_s_fault_and_one_without_room_is_not():
    wrong, late = Bench(2), Bench(2)
    wrong.put(1, refused="unclosed group")
    with pytest.raises(InvalidField, match="grammar: unclosed group"):
        await anext(wrong.stream)
    late.put(1, refused="too many are waiting", busy=True)
    with pytest.raises(Overloaded, match="too many are waiting") as refused:
        await anext(late.stream)
    assert refused.value.retry_after > 0
    assert {0, 1} <= set(wrong.given_up) & set(late.given_up)


async def test_the_worker_s_end_is_everybody_s():
    bench = Bench(2)
    bench.put(0, 1)
    bench.stream.fail(WorkerDied("gone"))
    assert (await anext(bench.stream))[0] == 0
    with pytest.raises(WorkerDied, match="gone"):
        await anext(bench.stream)
    bench.stream.close()
    assert bench.left == 0
