"""Answers that are what was asked for, and all the others."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from app.dataset import archive
from app.dataset.plan import Part
from tests.app.dataset.told import answer, bundle, picture, png

PART = Part(1, 7, 2)
GOOD = answer({"seed": 7, "n": 2, "label": 1})
FILE = png(picture(7, 1))


def test_pictures_come_in_the_order_of_their_seeds():
    pixels = archive.pixels(archive.unpack(GOOD, PART), (4, 6, 1))
    assert np.array_equal(pixels, np.stack([picture(7, 1), picture(8, 1)])[..., None])


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("RGBA", 4)])
def test_colours(mode, channels):
    pixels = np.arange(4 * 6 * channels, dtype=np.uint8).reshape(4, 6, channels)
    found = archive.pixels([png(pixels)], (4, 6, channels))
    assert np.array_equal(found, pixels[None])
    assert Image.fromarray(pixels).mode == mode


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "not a readable archive"),
        (GOOD[:-30], "not a readable archive"),
        (GOOD.replace(FILE, FILE[:20] + b"\xff" + FILE[21:]), "not a readable archive: Bad CRC"),
        (answer({"seed": 7, "n": 3}), "not an archive of 2 pictures"),
        (answer({"seed": 8, "n": 2}), "not the pictures of seeds 7 to 8"),
        (bundle([("a-seed-7.png", FILE), ("a-seed-8.png", FILE)], zipfile.ZIP_DEFLATED), "not an archive of 2"),
    ],
)
def test_what_is_no_archive_of_the_part(content, line):
    with pytest.raises(ValueError, match=line):
        archive.unpack(content, PART)


@pytest.mark.parametrize(
    "file", [b"", b"GIF89a", FILE[:40], png(picture(7, 1)[:3]), png(np.zeros((4, 6, 3), np.uint8))]
)
def test_what_is_no_picture_of_the_shape(file):
    with pytest.raises(ValueError, match="picture"):
        archive.pixels([file], (4, 6, 1))
