"""Requests that do harm, alone and among good ones: the culprit alone fails, its neighbours get their own bytes."""

import pytest

from tests import fake_sequences
from tests.chaos import asks, poison
from tests.chaos.clients import clients
from tests.chaos.hold import hold
from tests.chaos.server import restarts, worker

HOLD_SECONDS = 0.4
LONG = 3600  # a held device makes the foreseen waits long; nobody is to be refused for that
NEIGHBOURS = [asks.picture(seed, 1 + seed % 3) for seed in range(6)]
TEXTS = [asks.text(letter, 40, seed=7) for letter in "bdfh"]

HARMLESS = {"raise": poison.RAISE, "NaN": poison.NAN, "memory": poison.MEMORY}
# The worker ends by these, the last of which it has to be helped to. Two at once are told apart as well.
DEADLY = {"exit and segfault": (poison.EXIT, poison.SEGFAULT), "freeze": (poison.FREEZE,)}
# What a text model chokes on: its mark, and whether the worker ends by it.
TEXT_POISON = {
    "raise in prefill": fake_sequences.RAISE_PREFILL,
    "raise in a step": fake_sequences.RAISE_STEP,
    "NaN": fake_sequences.NAN,
}
TEXT_DEADLY = {"exit in a step": fake_sequences.EXIT, "hang": poison.HANG_STEP}


async def together(server, some, bad, good):
    """Bad requests among good ones: the device is held up until all of them wait."""
    held = await hold(server, some, HOLD_SECONDS, threads=server.threads)
    middle = len(good) // 2
    requests = [*good[:middle], *bad, *good[middle:]]
    outcomes = await some.ask_all(ask.within(LONG) for ask in requests)
    assert {str(outcome) for outcome in await held} == {"answered 200"}
    return outcomes[middle : middle + len(bad)], outcomes[:middle] + outcomes[middle + len(bad) :]


async def check(server, some, bad, good, code):
    """Whatever the bad ones do, the good ones get what they get alone."""
    alone = [await some.ask(ask) for ask in good]
    culprits, neighbours = await together(server, some, bad, good)
    assert [str(culprit) for culprit in culprits] == [f"refused 500 {code}"] * len(bad)
    assert [str(outcome) for outcome in neighbours] == ["answered 200"] * len(good)
    assert [outcome.body for outcome in neighbours] == [outcome.body for outcome in alone]


@pytest.mark.parametrize("kind", HARMLESS.values(), ids=HARMLESS)
async def test_pictures_that_fail(server, kind):
    """No worker ends by these, and the same request may try again."""
    pid = worker(server)
    async with clients(server.url) as some:
        assert str(await some.ask(asks.shown(kind))) == "refused 500 compute_failed"
        await check(server, some, [asks.shown(kind)], NEIGHBOURS, "compute_failed")
    assert worker(server) == pid


@pytest.mark.parametrize("mark", TEXT_POISON.values(), ids=TEXT_POISON)
async def test_texts_that_fail(server, mark):
    pid = worker(server)
    async with clients(server.url) as some:
        await check(server, some, [asks.text("a", 40, mark=mark)], TEXTS, "compute_failed")
    assert worker(server) == pid


async def test_speech_and_captions_that_fail(server):
    """Each among others of its kind and of all kinds."""
    pid = worker(server)
    good = [asks.speech("abc", 0.5), asks.caption("red dog", 3), *TEXTS[:2], *NEIGHBOURS[:2], asks.speech("zz", 0.3)]
    async with clients(server.url) as some:
        await check(server, some, [asks.speech("b!", 0.3)], good, "compute_failed")
        await check(server, some, [asks.caption("raise")], [*good, asks.caption("a blue cat")], "compute_failed")
    assert worker(server) == pid


async def test_a_stream_that_fails_says_so(server):
    async with clients(server.url) as some:
        bad = asks.text("a", 40, mark=fake_sequences.NAN, stream=True)
        culprit, *good = await some.ask_all([bad, *(asks.text(c, 40, stream=True) for c in "xyz")])
    assert str(culprit) == "broken 200 compute_failed"
    assert {str(outcome) for outcome in good} == {"answered 200"}


async def test_batches_too_large_for_the_memory(fragile_for_memory):
    """Rows that fit alone and not together: all are made, and the worker learns to make smaller batches."""
    server = fragile_for_memory
    pid = worker(server)
    async with clients(server.url) as some:
        for _ in range(2):
            held = await hold(server, some, HOLD_SECONDS, threads=server.threads)
            greedy = [asks.shown(poison.GREEDY, place / 16) for place in range(16)]
            outcomes = await some.ask_all(ask.within(LONG) for ask in [*greedy, *NEIGHBOURS])
            assert {str(outcome) for outcome in outcomes} == {"answered 200"}
            assert {str(outcome) for outcome in await held} == {"answered 200"}
        large = await some.ask(asks.picture(3, 16))  # which lower limits must not break
        assert str(large) == "answered 200"
    assert worker(server) == pid


@pytest.fixture
async def fragile_for_memory(victim):
    """The server of the crash tests: a lowered limit stays lowered, and its worker is replaced soon after."""
    return victim


@pytest.mark.parametrize("kinds", DEADLY.values(), ids=DEADLY)
async def test_pictures_that_end_the_worker(victim, kinds):
    """Neighbours are made again; the culprit is refused, and at once when it comes again: no worker pays for it."""
    bad = [asks.shown(kind, 0.125) for kind in kinds]
    async with clients(victim.url) as some:
        await check(victim, some, bad, NEIGHBOURS, "kills_worker")
        pid, count = worker(victim), restarts(victim)
        again = await some.ask_all(bad[:1] * 3 + NEIGHBOURS)
        assert [str(outcome) for outcome in again[:3]] == ["refused 500 kills_worker"] * 3
        assert {str(outcome) for outcome in again[3:]} == {"answered 200"}
    assert (worker(victim), restarts(victim)) == (pid, count)


async def test_a_transcript_that_ends_the_worker(victim):
    """What the others were told goes with them to the next worker."""
    good = [asks.speech("abc", 0.5), asks.speech("zz z", 0.3), asks.caption("red dog", 2), *TEXTS[:1]]
    bad = asks.speech("a#", 0.3)
    async with clients(victim.url) as some:
        await check(victim, some, [bad], good, "kills_worker")
        again = await some.ask_all([bad, *good, asks.speech("a", 0.3)])
    assert str(again[0]) == "refused 500 kills_worker"
    assert {str(outcome) for outcome in again[1:]} == {"answered 200"}


@pytest.mark.parametrize("mark", TEXT_DEADLY.values(), ids=TEXT_DEADLY)
async def test_texts_that_end_the_worker(victim, mark):
    """The request has no seed: another is drawn each time, and it is the same request all the same."""
    bad = asks.text("a", 40, mark=mark)
    async with clients(victim.url) as some:
        await check(victim, some, [bad], TEXTS, "kills_worker")
        pid, count = worker(victim), restarts(victim)
        again = await some.ask_all([bad] * 3 + TEXTS)
        assert [str(outcome) for outcome in again[:3]] == ["refused 500 kills_worker"] * 3
        assert {str(outcome) for outcome in again[3:]} == {"answered 200"}
    assert (worker(victim), restarts(victim)) == (pid, count)
