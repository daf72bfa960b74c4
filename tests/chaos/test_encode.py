"""Pictures that come in: poisoned, hostile, slow, given up, in flight when the worker dies; nobody else notices."""

import asyncio
import base64
import io
import os
import signal
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from tests import fakes
from tests.chaos import asks
from tests.chaos.asks import ENCODE, LARGE
from tests.chaos.clients import PATIENCE, clients, exchange, leave
from tests.chaos.hold import gated, hold
from tests.chaos.proxy import Fault, proxied
from tests.chaos.server import MEBIBYTE, READ_SECONDS, footprint, metric, restarts, settled, worker
from tests.chaos.test_poison import check
from tests.chaos.test_slow_clients import served_beside
from tests.serving import eventually

HOLD_SECONDS = 0.6
LONG = 3600  # a held device makes the foreseen waits long; nobody is to be refused for that
GOOD = [*(asks.encode(seed) for seed in range(8)), asks.picture(1, 2)]
WAVES, CROWD = 12, 16  # of leavers, who together send twice what memory may grow by
ROUNDS = 9  # of hostile files: more than 200 in all
HIGH, FLAT = 96 * MEBIBYTE, 24 * MEBIBYTE  # more than before, while they come and afterwards


def poisoned(what):
    return asks.encode(3, first=fakes.POISON[what])


@pytest.mark.parametrize("what", [fakes.RAISE, fakes.NAN], ids=["raise", "NaN"])
async def test_poisoned_uploads_fail_alone(server, what):
    pid = worker(server)
    async with clients(server.url) as some:
        assert str(await some.ask(poisoned(what))) == "refused 500 compute_failed"
        await check(server, some, [poisoned(what)], GOOD, "compute_failed")
    assert worker(server) == pid


async def test_an_upload_that_ends_the_worker_fails_alone(victim):
    """And is refused at once when it comes again."""
    bad = poisoned(fakes.EXIT)
    async with clients(victim.url) as some:
        await check(victim, some, [bad], GOOD, "kills_worker")
        pid, count = worker(victim), restarts(victim)
        again = await some.ask_all([bad, bad, *GOOD])
    assert [str(outcome) for outcome in again[:2]] == ["refused 500 kills_worker"] * 2
    assert {str(outcome) for outcome in again[2:]} == {"answered 200"}
    assert (worker(victim), restarts(victim)) == (pid, count)


async def test_the_worker_is_killed_with_encodes_in_flight(victim, chaos_weights):
    """Each gets its own latents from the next worker."""
    pid, before = worker(victim), restarts(victim)
    requests = [asks.encode(seed, scale=1 + seed % 8).within(LONG) for seed in range(60)]
    async with clients(victim.url) as some:
        async with gated(victim, some, chaos_weights) as held:
            waiting = asyncio.ensure_future(some.ask_all(requests))
            await eventually(lambda: metric(victim, "genserve_queue_depth") == len(requests) + victim.threads)
            os.kill(pid, signal.SIGKILL)
        outcomes = [*await waiting, *await held]
    assert {str(outcome) for outcome in outcomes} == {"answered 200"}
    assert worker(victim) != pid
    assert restarts(victim) > before


LARGE_UPLOAD = asks.encode(5, scale=LARGE).raw()


def half_a_file(url, reset):
    return leave(url, LARGE_UPLOAD[: len(LARGE_UPLOAD) // 2], reset=reset)


def file_being_read(url, reset):
    return leave(url, LARGE_UPLOAD, linger=0.01, reset=reset)


def latents_coming(url, reset):
    return leave(url, LARGE_UPLOAD, read=100, reset=reset)


@pytest.mark.parametrize("stage", [half_a_file, file_being_read, latents_coming])
async def test_uploaders_that_leave(server, stage):
    """Wave after wave; those who stay get their own."""
    async with clients(server.url) as staying:
        for _ in range(WAVES):
            crowd = (stage(server.url, reset=place % 2 == 0) for place in range(CROWD))
            _, outcomes = await asyncio.gather(asyncio.gather(*crowd), staying.ask_all(GOOD))
            assert {str(outcome) for outcome in outcomes} == {"answered 200"}


async def test_what_departed_uploaders_sent_is_not_encoded(server):
    """The device is held up; of what waited for it, only the picture of the one who stayed is encoded."""
    encoded, cancelled = metric(server, "genserve_encoded_total"), metric(server, "genserve_cancelled_total")
    async with clients(server.url) as staying:
        held = await hold(server, staying, HOLD_SECONDS)
        gone = [leave(server.url, asks.encode(s).raw(), linger=0.1, reset=s % 2 == 0) for s in range(8)]
        stays = asyncio.ensure_future(staying.ask(asks.encode(99)))
        await asyncio.gather(*gone)
        assert [str(await stays), *map(str, await held)] == ["answered 200"] * 2
    await eventually(lambda: metric(server, "genserve_cancelled_total") == cancelled + 8)
    assert metric(server, "genserve_encoded_total") == encoded + 1


async def test_slow_uploaders_are_cut_off(server):
    """Whether they stop in the middle of their file or send it drop by drop, their time is that of any request."""
    half, start = LARGE_UPLOAD[: len(LARGE_UPLOAD) // 2], time.monotonic()
    async with proxied(server.url, up=Fault(rate=20_000)) as url:
        slow = [exchange(url, LARGE_UPLOAD, PATIENCE) for _ in range(CROWD)]
        ends = await served_beside(server, *slow, *(exchange(server.url, half) for _ in range(CROWD)))
    assert time.monotonic() - start > READ_SECONDS / 2
    for answer, closed in ends:
        assert closed, "the connection is left open"
        assert not answer or answer.startswith(b"HTTP/1.1 408"), answer[:300]


# Files that are none, or claim to be more than they are.


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width, height):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))


def png(width, height, data=b"", more=b""):
    """A grey picture with these compressed pixels, whether or not they fit."""
    return b"\x89PNG\r\n\x1a\n" + header(width, height) + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def made(kind, side, **options):
    """A sound file of noise."""
    out, pixels = io.BytesIO(), np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def scans(count):
    """A JPEG that goes over its pixels so often."""
    file = made("jpeg", 64, progressive=True)
    last = file[file.rindex(b"\xff\xda") : -2]
    return file[:-2] + last * (count - file.count(b"\xff\xda")) + file[-2:]


def sized(width, height):
    """A JPEG that says this size of itself."""
    file = made("jpeg", 64)
    at = file.index(b"\xff\xc0") + 5
    return file[:at] + struct.pack(">HH", height, width) + file[at + 4 :]


def canvas(side):
    """A WebP that says this size of itself."""
    fields = b"\x10\0\0\0" + (side - 1).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", 4 + 8 + len(fields)) + b"WEBPVP8X" + struct.pack("<I", len(fields)) + fields


BOMB = zlib.compress(bytes(1 << 26), 9)  # 64 MiB of zeros in 64 kB
INVALID, TOO_LARGE, UNKNOWN = "400 invalid_picture", "413 picture_too_large", "415 unsupported_media_type"
HOSTILE = {
    "a PNG of 60,000 x 60,000": (png(60_000, 60_000, BOMB), TOO_LARGE),
    "a PNG of 4,294,967,295 x 1": (png((1 << 32) - 1, 1), TOO_LARGE),
    "a JPEG of 65,535 x 65,535": (sized(65_535, 65_535), TOO_LARGE),
    "a WebP of 16,777,216 x 16,777,216": (canvas(1 << 24), TOO_LARGE),
    "a PNG of 0 x 4": (png(0, 4), INVALID),
    "a JPEG with 101 scans": (scans(101), INVALID),
    "a JPEG with 500 scans": (scans(500), INVALID),
    "an empty PNG of 4,096 x 4,096": (png(4096, 4096), INVALID),
    "a PNG that is larger inside": (png(4, 4, BOMB, header(60_000, 60_000)), INVALID),
    "a PNG with texts of 512 MiB": (png(4, 4, more=chunk(b"zTXt", b"k\0\0" + BOMB) * 8), INVALID),
    "a PNG with a huge profile": (png(4, 4, more=chunk(b"iCCP", b"k\0\0" + BOMB)), INVALID),
    "a PNG with a chunk of 4 GiB": (png(4, 4)[:33] + b"\xff\xff\xff\xffIDAT", INVALID),
    "a truncated PNG": (made("png", 400)[:-50_000], INVALID),
    "a truncated JPEG": (made("jpeg", 400)[:-20_000], INVALID),
    "a truncated WebP": (made("webp", 400, lossless=True)[:-50_000], INVALID),
    "a PNG's header": (png(4, 4)[:20], INVALID),
    "a JPEG without a frame": (b"\xff\xd8" + b"\xff\xe0\0\2" * 100_000, INVALID),
    "a JPEG of fill bytes": (b"\xff\xd8" + b"\xff" * 500_000, INVALID),
    "a GIF": (made("gif", 64), UNKNOWN),
    "nothing": (b"", UNKNOWN),
    "zeros": (bytes(500_000), UNKNOWN),
    "JSON": (b"{}", UNKNOWN),
}


async def test_hostile_pictures(server):
    """Each is refused as documented, over and over, and takes no memory, neither meanwhile nor afterwards."""
    async with clients(server.url) as some:
        await refused(some)
        before = settled(server).memory
        rounds = asyncio.ensure_future(over_and_over(some))
        peak = await highest(server, rounds)
        await rounds
        after = settled(server).memory
    grown = [[(b - a) / MEBIBYTE for a, b in zip(before, sizes, strict=True)] for sizes in (peak, after)]
    assert max(grown[0]) < HIGH, f"grown by MiB meanwhile: {grown[0]}"
    assert max(grown[1]) < FLAT, f"grown by MiB: {grown[1]}"


async def refused(some):
    outcomes = await some.ask_all(asks.upload(file) for file, _ in HOSTILE.values())
    for name, (_, expected), outcome in zip(HOSTILE, HOSTILE.values(), outcomes, strict=True):
        assert str(outcome) == f"refused {expected}", name


async def over_and_over(some):
    for _ in range(ROUNDS):
        await refused(some)
        assert {str(outcome) for outcome in await some.ask_all(GOOD)} == {"answered 200"}


async def highest(server, until):
    """The most that each process holds, in looks taken until it is over."""
    most = footprint(server).memory
    while not until.done():
        now = (await asyncio.to_thread(footprint, server)).memory
        most = tuple(max(a, b) for a, b in zip(most, now, strict=True))
        await asyncio.sleep(0.01)
    return most


def within_json(image):
    return asks.Ask(ENCODE, {"model": "reader", "label": 1, "image": image}, lambda _: False)


WITHIN = {
    "a claim": ("data:image/png;base64," + base64.b64encode(png(60_000, 60_000)).decode(), TOO_LARGE),
    "a truncated file": (base64.b64encode(made("png", 400)[:-50_000]).decode(), INVALID),
    "white alone": (" \n" * 200_000, UNKNOWN),
    "no base64": ("?" * 500_000, "400 invalid_field"),
    "not ASCII": ("\u0661" * 50_000, "400 invalid_field"),
    "an address": ("http://127.0.0.1/picture.png", "400 invalid_field"),
}


async def test_hostile_pictures_within_json(server):
    async with clients(server.url) as some:
        outcomes = await some.ask_all(within_json(image) for image, _ in WITHIN.values())
    for name, (_, expected), outcome in zip(WITHIN, WITHIN.values(), outcomes, strict=True):
        assert str(outcome) == f"refused {expected}", name


CHUNKS = (b"10000\r\n" + bytes(1 << 16) + b"\r\n") * 20
CHUNKED = (
    f"POST {ENCODE}?model=reader&label=1 HTTP/1.1\r\nHost: genserve\r\nContent-Type: image/png\r\n"
    "Transfer-Encoding: chunked\r\n\r\n"
).encode() + CHUNKS
TOO_MUCH = {
    "a megabyte and a byte": asks.upload(bytes(MEBIBYTE + 1)).raw(),
    "a megabyte within JSON": within_json("A" * MEBIBYTE).raw(),
    "chunks without end": CHUNKED,
}


@pytest.mark.parametrize("data", TOO_MUCH.values(), ids=TOO_MUCH)
async def test_bodies_that_are_too_large(server, data):
    for answer, closed in await asyncio.gather(*(exchange(server.url, data) for _ in range(CROWD))):
        assert closed, "the connection is left open"
        assert answer.startswith(b"HTTP/1.1 413"), answer[:300]
        assert b'"body_too_large"' in answer
