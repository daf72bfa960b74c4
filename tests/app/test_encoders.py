"""What waits for the encoder threads is counted, and done in time or not at all."""

import asyncio
import threading

import pytest

from app import encoders
from app.encoders import Encoders
from app.engine.terms import Terms
from app.errors import DeadlineExceeded, Overloaded
from app.telemetry import Telemetry
from tests.serving import eventually


@pytest.fixture
def made():
    made = Encoders(Telemetry())
    yield made
    made.close()


async def stay(future):
    return await future


def soon(seconds=60.0):
    return asyncio.get_running_loop().time() + seconds


def test_what_would_take_too_long_is_refused_and_what_is_released_is_forgotten(made):
    held = [made.reserve(10_000_000, "webp", Terms(seconds=2.5)) for _ in range(2)]
    assert held == [1.0, 1.0]
    with pytest.raises(Overloaded) as caught:
        made.reserve(10_000_000, "webp", Terms(seconds=2.5))
    assert caught.value.retry_after == pytest.approx(0.25)
    made.reserve(10_000_000, "webp", Terms(seconds=3.0))
    for seconds in [*held, 1.0]:
        made.release(seconds)
    made.reserve(100_000_000, "webp", Terms(seconds=0.1))  # idle threads refuse nothing


async def test_result_and_learning(made):
    assert await made.run(lambda: 7, 10, "png", stay, soon()) == 7
    assert made._pixel_seconds["png"] != encoders.FIRST_GUESS["png"]


def test_many_small_files_do_not_make_large_ones_look_slow(made):
    """A file of a few pixels takes many times as long a pixel."""
    for _ in range(1000):
        made._learn("webp-animation", 1e-2, 128)
    assert made.reserve(10_000_000, "webp-animation", Terms()) < 6.0
    for _ in range(20):
        made._learn("webp-animation", 10.0, 10_000_000)
    assert made.reserve(10_000_000, "webp-animation", Terms(seconds=100.0)) == pytest.approx(10.0, rel=0.01)


async def test_what_comes_too_late_is_learned_from_too(made):
    """Else a machine that has become slow would go on promising what it can't keep."""
    gate, before = threading.Event(), made._pixel_seconds["upload"]
    with pytest.raises(DeadlineExceeded, match="not read in time"):
        await made.run(gate.wait, 1, "upload", stay, soon(0.02))
    gate.set()
    await eventually(lambda: made._pixel_seconds["upload"] > before)


async def test_nothing_is_begun_for_those_whose_time_is_over_or_who_have_left(made):
    gate, begun = threading.Event(), []
    busy = [asyncio.ensure_future(made.run(gate.wait, 1, "png", stay, soon())) for _ in range(encoders.THREADS)]
    await asyncio.sleep(0.01)
    late = made.run(lambda: begun.append("late"), 1, "png", stay, soon(0.02))
    with pytest.raises(DeadlineExceeded):
        await late

    async def leave(future):
        future.cancel()
        return await future

    with pytest.raises(asyncio.CancelledError):
        await made.run(lambda: begun.append("gone"), 1, "png", leave, soon())
    gate.set()
    assert await asyncio.gather(*busy) == [True] * encoders.THREADS
    await made.run(lambda: None, 1, "png", stay, soon())
    assert begun == []


async def test_an_error_is_the_caller_s(made):
    with pytest.raises(ZeroDivisionError):
        await made.run(lambda: 1 / 0, 1, "png", stay, soon())
