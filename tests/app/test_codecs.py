"""Files come out right: pixels kept, provenance readable by others, the same bytes every time."""

import io
import json
import struct
import zipfile
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from app import codecs
from app.codecs import Provenance

STORY = Provenance("echo@0123456789ab", {"seed": 7, "label": 3})
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
OURS = "{urn:genserve:xmp}"
AI = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def pictures(n=1, height=5, width=6, channels=1):
    return np.random.default_rng(n).integers(0, 256, (n, height, width, channels), np.uint8)


def description(xmp: str) -> dict[str, str]:
    """The attributes of the RDF description, read by an XML parser that knows nothing of us."""
    packet = xmp[xmp.index("<x:xmpmeta") : xmp.index("<?xpacket end")]
    return next(ElementTree.fromstring(packet).iter(f"{RDF}Description")).attrib


def png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = [], 8
    while at < len(content):
        size, kind = struct.unpack_from("!I4s", content, at)
        data = content[at + 8 : at + 8 + size]
        assert struct.unpack_from("!I", content, at + 8 + size)[0] == zlib.crc32(kind + data)
        chunks.append((kind, data))
        at += 12 + size
    return chunks


@pytest.mark.parametrize("image_format", ["png", "webp"])
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_pixels_survive(image_format, channels, mode):
    (picture,) = pictures(channels=channels)
    if channels == 4:
        picture[..., 3] |= 1  # WebP does not keep the colour of what nobody can see
    image = Image.open(io.BytesIO(codecs.encode(picture, image_format, STORY)))
    assert image.format == image_format.upper()
    assert image.size == (6, 5)
    np.testing.assert_array_equal(np.asarray(image.convert(mode)), picture.squeeze())


def sizes():
    """[H, W, C], the narrowest and the flattest among them."""
    return st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 4]))


@given(npst.arrays(np.uint8, sizes()))
def test_any_png_is_what_the_standard_says(picture):
    """By the standard library's own checksums and decompression; ISO/IEC 15948, 5.3 and 11.2."""
    height, width, channels = picture.shape
    chunks = png_chunks(codecs.encode(picture, "png", STORY))
    assert [kind for kind, _ in chunks] == [b"IHDR", b"iTXt", b"IDAT", b"IEND"]
    (_, header), _, (_, data), (_, end) = chunks
    assert struct.unpack("!IIBBBBB", header) == (width, height, 8, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    assert end == b""
    decoder = zlib.decompressobj()
    rows = np.frombuffer(decoder.decompress(data), np.uint8).reshape(height, 1 + width * channels)
    assert decoder.eof, "the stream is complete, its Adler-32 right"
    assert decoder.unused_data == b""
    assert (rows[:, 0] == 2).all(), "every row as its difference from the row above"
    above = rows[:, 1:].cumsum(axis=0, dtype=np.uint8)
    np.testing.assert_array_equal(above.reshape(picture.shape), picture)


@given(npst.arrays(np.uint8, sizes()))
def test_others_read_the_same_pixels(picture):
    image = Image.open(io.BytesIO(codecs.encode(picture, "png", STORY)))
    assert image.mode == {1: "L", 3: "RGB", 4: "RGBA"}[picture.shape[2]]
    np.testing.assert_array_equal(np.asarray(image).reshape(picture.shape), picture)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1), (224, 224), (1024, 700)])
def test_pictures_of_all_proportions(height, width, channels):
    """Noise, which nothing compresses, and black; rows that are no array of their own among them."""
    for picture in (pictures(1, height, 2 * width, channels)[0, :, ::2], np.zeros((height, width, channels), np.uint8)):
        content = codecs.encode(picture, "png", STORY)
        png_chunks(content)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))).reshape(picture.shape), picture)


def test_png_says_that_it_is_generated():
    """In an uncompressed iTXt chunk with the keyword that the XMP specification names."""
    chunks = png_chunks(codecs.encode(pictures()[0], "png", STORY))
    (itxt,) = [data for kind, data in chunks if kind == b"iTXt"]
    keyword, _, rest = itxt.partition(b"\0")
    assert keyword == b"XML:com.adobe.xmp"
    assert rest[:2] == b"\0\0"  # not compressed
    attributes = description(rest.split(b"\0", 4)[4].decode())
    assert attributes[f"{IPTC}DigitalSourceType"] == AI
    assert attributes[f"{OURS}model"] == "echo@0123456789ab"
    assert json.loads(attributes[f"{OURS}parameters"]) == {"seed": 7, "label": 3}
    assert {kind for kind, _ in chunks} == {b"IHDR", b"iTXt", b"IDAT", b"IEND"}, "no time, no software name"


def test_webp_says_that_it_is_generated():
    xmp = Image.open(io.BytesIO(codecs.encode(pictures()[0], "webp", STORY))).info["xmp"]
    assert description(xmp.decode())[f"{IPTC}DigitalSourceType"] == AI


@given(st.text(), st.dictionaries(st.text(), st.integers() | st.text() | st.floats(allow_nan=False)))
def test_any_provenance_is_well_formed(model, parameters):
    """Quotes, angle brackets and control characters must neither break the XML nor be lost."""
    attributes = description(Provenance("m@0", {"any": [model, parameters]}).xmp())
    assert json.loads(attributes[f"{OURS}parameters"]) == {"any": [model, parameters]}


@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_bytes_are_a_function_of_picture_and_story(image_format):
    (picture,) = pictures()
    first = codecs.encode(picture, image_format, STORY)
    assert codecs.encode(picture.copy(), image_format, Provenance(STORY.model, {"label": 3, "seed": 7})) == first
    assert codecs.encode(picture, image_format, Provenance(STORY.model, {"seed": 8})) != first


@pytest.mark.parametrize(
    ("count", "shape"), [(1, (1, 1)), (2, (1, 2)), (3, (2, 2)), (5, (2, 3)), (7, (3, 3)), (12, (3, 4)), (64, (8, 8))]
)
def test_grid_shape(count, shape):
    assert codecs.grid_shape(count) == shape


@given(st.integers(1, 64), st.integers(1, 3))
def test_grid_holds_every_picture_in_reading_order(count, channels):
    given = pictures(count, 2, 3, channels)
    sheet, (rows, columns) = codecs.grid(given), codecs.grid_shape(count)
    assert sheet.shape == (rows * 2, columns * 3, channels)
    for i in range(rows * columns):
        y, x = i // columns * 2, i % columns * 3
        place = sheet[y : y + 2, x : x + 3]
        assert (place == given[i]).all() if i < count else not place.any()


def test_enlarge_repeats_pixels():
    given = pictures(2)
    large = codecs.enlarge(given, 3)
    assert large.shape == (2, 15, 18, 1)
    for dy in range(3):
        for dx in range(3):
            np.testing.assert_array_equal(large[:, dy::3, dx::3], given)
    assert codecs.enlarge(given, 1) is given


def test_archive_is_a_zip_without_a_clock():
    content = codecs.archive([("a.png", b"1"), ("b.png", b"22")])
    with zipfile.ZipFile(io.BytesIO(content)) as bundle:
        assert bundle.testzip() is None
        assert {name: bundle.read(name) for name in bundle.namelist()} == {"a.png": b"1", "b.png": b"22"}
        assert {info.date_time for info in bundle.infolist()} == {codecs.ZIP_EPOCH}
    assert codecs.archive([("a.png", b"1"), ("b.png", b"22")]) == content


def test_encode_all_gives_each_its_own_story():
    given, stories = pictures(2), [Provenance("m@0", {"seed": seed}) for seed in (1, 2)]
    assert codecs.encode_all(given, "png", stories) == [
        codecs.encode(picture, "png", story) for picture, story in zip(given, stories, strict=True)
    ]
    with pytest.raises(ValueError, match="shorter"):
        codecs.encode_all(given, "png", stories[:1])
