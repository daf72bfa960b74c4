"""Animations come out right: every frame, its time, the provenance, the same bytes every time."""

import io
import json
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from app import codecs
from app.animation import Animation, animate
from app.codecs import Provenance
from tests.app.test_codecs import AI, IPTC, OURS, description, pictures, png_chunks

STORY = Provenance("echo@0123456789ab", {"seed": 7, "label": 3})
FORMATS = ("webp-animation", "apng")


def opened(content):
    return Image.open(io.BytesIO(content))


def frames(content, mode):
    """What another program shows, one after the other: [n, H, W, C]."""
    shown = np.stack([np.asarray(frame.convert(mode)) for frame in ImageSequence.Iterator(opened(content))])
    return shown if shown.ndim == 4 else shown[..., None]


def durations(content):
    found = []
    for frame in ImageSequence.Iterator(opened(content)):
        frame.load()  # before that, Pillow does not know it of WebP
        found.append(round(frame.info["duration"]))
    return found


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
@pytest.mark.parametrize("scale", [1, 3])
def test_every_frame_survives(image_format, channels, mode, scale):
    given = pictures(6, channels=channels)
    if channels == 4:
        given[..., 3] |= 1  # WebP does not keep the colour of what nobody can see
    content = animate(given, Animation(image_format, 70), scale, STORY)
    np.testing.assert_array_equal(frames(content, mode), codecs.enlarge(given, scale))
    assert durations(content) == [70] * 6


@given(
    st.sampled_from(FORMATS), st.integers(2, 9), st.integers(1, 20), st.integers(1, 20), st.sampled_from([20, 10_000])
)
def test_any_size_and_number(image_format, count, height, width, duration):
    given = np.random.default_rng(count).integers(0, 256, (count, height, width, 3), np.uint8)
    content = animate(given, Animation(image_format, duration), 1, STORY)
    np.testing.assert_array_equal(frames(content, "RGB"), given)
    assert sum(durations(content)) == count * duration


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize(("loop", "plays"), [("forever", 0), ("once", 1), ("boomerang", 0)])
def test_loops(image_format, loop, plays):
    content = animate(pictures(4), Animation(image_format, 50, loop), 1, STORY)
    assert opened(content).info["loop"] == plays
    shown = [0, 1, 2, 3, 2, 1] if loop == "boomerang" else [0, 1, 2, 3]
    np.testing.assert_array_equal(frames(content, "L"), pictures(4)[shown])


@pytest.mark.parametrize(("count", "order"), [(2, [0, 1]), (3, [0, 1, 2, 1]), (5, [0, 1, 2, 3, 4, 3, 2, 1])])
def test_a_boomerang_shows_neither_end_twice_in_a_row(count, order):
    assert Animation("apng", 50, "boomerang").order(count) == order


def test_equal_frames_keep_their_time():
    still = np.repeat(pictures(1), 5, axis=0)
    apng = animate(still, Animation("apng", 10_000), 1, STORY)
    assert durations(apng) == [10_000] * 5
    webp = animate(np.concatenate([still, pictures(2)]), Animation("webp-animation", 10_000), 1, STORY)
    assert durations(webp) == [50_000, 10_000, 10_000], "WebP's encoder makes one longer frame of them"
    np.testing.assert_array_equal(frames(webp, "L"), np.concatenate([still[:1], pictures(2)]))


def test_an_apng_is_what_the_standard_says():
    """PNG, third edition: acTL before IDAT, sequence numbers without gaps over fcTL and fdAT."""
    chunks = png_chunks(animate(pictures(3, channels=3), Animation("apng", 70, "once"), 1, STORY))
    kinds = [kind for kind, _ in chunks]
    assert kinds == [b"IHDR", b"iTXt", b"acTL", b"fcTL", b"IDAT", b"fcTL", b"fdAT", b"fcTL", b"fdAT", b"IEND"]
    assert struct.unpack("!II", chunks[2][1]) == (3, 1)
    numbered = [data for kind, data in chunks if kind in (b"fcTL", b"fdAT")]
    assert [struct.unpack_from("!I", data)[0] for data in numbered] == list(range(5))
    for control in (data for kind, data in chunks if kind == b"fcTL"):
        assert struct.unpack("!IIIIIHHBB", control)[1:] == (6, 5, 0, 0, 70, 1000, 0, 0)
    for data in (data[4:] for kind, data in chunks if kind == b"fdAT"):
        assert len(zlib.decompress(data)) == 5 * (1 + 3 * 6)


@pytest.mark.parametrize("image_format", FORMATS)
def test_it_says_that_it_is_generated(image_format):
    info = opened(animate(pictures(3), Animation(image_format), 1, STORY)).info
    attributes = description(info.get("XML:com.adobe.xmp") or info["xmp"].decode())
    assert attributes[f"{IPTC}DigitalSourceType"] == AI
    assert attributes[f"{OURS}model"] == STORY.model
    assert json.loads(attributes[f"{OURS}parameters"]) == STORY.parameters


@pytest.mark.parametrize("image_format", FORMATS)
def test_bytes_are_a_function_of_pictures_times_and_story(image_format):
    first = animate(pictures(3), Animation(image_format), 1, STORY)
    assert animate(pictures(3).copy(), Animation(image_format), 1, STORY) == first
    assert animate(pictures(3), Animation(image_format, 99), 1, STORY) != first
    assert animate(pictures(3), Animation(image_format, loop="once"), 1, STORY) != first
    assert animate(pictures(3), Animation(image_format), 1, Provenance(STORY.model, {"seed": 8})) != first


@pytest.mark.parametrize(("image_format", "most"), [("apng", 2.0), ("webp-animation", 4.0)])
def test_it_takes_a_few_times_its_pixels(image_format, most):
    """So `max_pixels` bounds the memory of an animation too; noise, which no compression makes smaller."""
    given = np.random.default_rng(0).integers(256, size=(64, 32, 32, 4), dtype=np.uint8)
    tracemalloc.start()
    try:
        animate(given, Animation(image_format), 2, STORY)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most * given.size * 4, f"{peak / (given.size * 4):.2f}"
