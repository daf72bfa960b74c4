"""One rule for any picture, and a clear refusal of what is none."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from app import upload
from app.codecs import Provenance, encode
from app.errors import InvalidPicture, UnsupportedMediaType
from app.upload import header_of, read

SHAPE = (28, 28, 1)


def noise(width, height, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8).squeeze()


def file_of(image, name, **options):
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, name, **options)
    return out.getvalue()


def reading(content, shape=SHAPE):
    return read(content, header_of(content), shape)


def grey_of(rgb):
    """Rec. 601 luma, as ITU-R BT.601 has it."""
    return np.rint(rgb.astype(np.float64) @ [0.299, 0.587, 0.114])


FILES = {
    "png": file_of(noise(40, 30), "png"),
    "grey png": file_of(noise(40, 30, 1), "png"),
    "palette png": file_of(Image.fromarray(noise(40, 30)).quantize(16), "png"),
    "alpha png": file_of(noise(40, 30, 4), "png"),
    "grey alpha png": file_of(Image.fromarray(noise(40, 30, 4)).convert("LA"), "png"),
    "black and white png": file_of(Image.fromarray(noise(40, 30)).convert("1"), "png"),
    "16-bit png": file_of(Image.fromarray(noise(40, 30, 1).astype(np.uint16) * 257), "png"),
    "jpeg": file_of(noise(40, 30), "jpeg"),
    "progressive jpeg": file_of(noise(40, 30), "jpeg", progressive=True),
    "grey jpeg": file_of(noise(40, 30, 1), "jpeg"),
    "cmyk jpeg": file_of(Image.fromarray(noise(40, 30)).convert("CMYK"), "jpeg"),
    "annotated jpeg": file_of(noise(40, 30), "jpeg", exif=Image.Exif(), comment=b"x" * 9000, icc_profile=b"y" * 99),
    "lossy webp": file_of(noise(40, 30), "webp"),
    "lossless webp": file_of(noise(40, 30), "webp", lossless=True),
    "alpha webp": file_of(noise(40, 30, 4), "webp"),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Truncated File")
@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_is_read(name):
    header = header_of(FILES[name])
    assert (header.format, header.width, header.height) == (name.split()[-1], 40, 30)
    for shape in (SHAPE, (8, 16, 3), (5, 5, 4)):
        found = read(FILES[name], header, shape)
        assert found.picture.shape == shape
        assert found.picture.dtype == np.uint8
        assert found.resized
        assert found.picture.std() > 1


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(["png", "jpeg", "webp", "lossless", "alpha"]))
def test_sizes_are_read_from_the_header(width, height, kind):
    image = Image.new("RGBA" if kind == "alpha" else "RGB", (width, height))
    options = {"lossless": True} if kind == "lossless" else {}
    content = file_of(image, {"lossless": "webp", "alpha": "webp"}.get(kind, kind), **options)
    header = header_of(content)
    assert (header.width, header.height, header.pixels) == (width, height, width * height)
    assert reading(content).picture.shape == SHAPE


def test_a_picture_of_the_model_s_own_size_stays_as_it_is():
    for shape, picture in ((SHAPE, noise(28, 28, 1)), ((28, 28, 3), noise(28, 28))):
        found = reading(file_of(picture, "png"), shape)
        np.testing.assert_array_equal(found.picture, picture.reshape(shape))
        assert (found.crop, found.resized, found.grey, found.flattened, found.orientation) == (None, *[False] * 3, 1)


@pytest.mark.parametrize("image_format", ["png", "webp"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("scale", [1, 2, 7])
def test_what_the_service_has_enlarged_comes_back_exactly(image_format, channels, scale):
    picture = noise(12, 12, channels).reshape(12, 12, channels)
    if channels == 4:
        picture[..., 3] = 255  # elsewhere the colours behind transparency are free to change
    sent = encode(picture.repeat(scale, 0).repeat(scale, 1), image_format, Provenance("m@0", {}))
    found = reading(sent, (12, 12, channels))
    np.testing.assert_array_equal(found.picture, picture)


def test_grey_is_rec_601_luma():
    colours = noise(28, 28)
    found = reading(file_of(colours, "png"))
    assert found.grey
    assert np.abs(found.picture[..., 0] - grey_of(colours)).max() <= 1
    assert not reading(file_of(noise(28, 28, 1), "png")).grey


def test_what_is_transparent_is_black():
    picture = noise(28, 28, 4)
    found = reading(file_of(picture, "png"), (28, 28, 3))
    assert found.flattened
    wanted = picture[..., :3].astype(float) * picture[..., 3:] / 255
    assert np.abs(found.picture - wanted).max() <= 1
    kept = reading(file_of(picture, "png"), (28, 28, 4))
    np.testing.assert_array_equal(kept.picture, picture)
    assert not kept.flattened


def test_one_transparent_colour():
    picture = np.full((28, 28), 200, np.uint8)
    picture[:14] = 90
    for image in (Image.fromarray(picture), Image.fromarray(picture).convert("P"), Image.fromarray(picture > 100)):
        first = image.getpixel((0, 0))
        found = reading(file_of(image, "png", transparency=first))
        assert found.flattened
        assert found.picture[:14].max() == 0
        assert found.picture[14:].min() >= 200


def test_sixteen_bits_are_scaled():
    deep = np.linspace(0, 65535, 28 * 28).astype(np.uint16).reshape(28, 28)
    found = reading(file_of(Image.fromarray(deep), "png"))
    np.testing.assert_array_equal(found.picture[..., 0], np.rint(deep / 257))
    assert not found.grey


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["png", "jpeg", "webp"])
def test_pictures_are_turned_upright(orientation, name):
    exif = Image.Exif()
    exif[upload.ORIENTATION] = orientation
    ramp = Image.fromarray(np.add.outer(np.arange(30) * 6, np.arange(20) * 2).astype(np.uint8))
    content = file_of(ramp, name, exif=exif, quality=95)
    found = reading(content, (30, 20, 1) if orientation < 5 else (20, 30, 1))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("L")
    assert np.abs(found.picture[..., 0].astype(int) - np.asarray(upright)).max() <= 1
    assert (found.orientation, found.crop, found.resized) == (orientation, None, False)
    assert (found.header.width, found.header.height) == (20, 30), "as it is stored"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0"]
)
def test_metadata_that_makes_no_sense_turns_nothing(exif):
    found = reading(file_of(noise(28, 28), "jpeg", exif=exif))
    assert found.orientation == 1


def test_metadata_that_can_t_be_parsed_turns_nothing():
    found = reading(file_of(noise(28, 28), "webp", exif=b"no such thing"))
    assert found.orientation == 1


@pytest.mark.parametrize(
    ("size", "shape", "crop"),
    [
        ((100, 60), (28, 28), (20, 0, 80, 60)),
        ((60, 101), (28, 28), (0, 20, 60, 80)),
        ((28, 28), (28, 28), None),
        ((300, 100), (28, 56), (50, 0, 250, 100)),
        ((1, 500), (28, 28), (0, 249, 1, 250)),
        ((500, 1), (10, 60), (247, 0, 253, 1)),
    ],
)
def test_the_middle_is_kept(size, shape, crop):
    found = reading(file_of(noise(*size, 1).reshape(size[::-1]), "png"), (*shape, 1))
    assert found.crop == crop


def test_smaller_is_the_mean_and_larger_is_smooth():
    picture = noise(84, 84, 1)
    small = reading(file_of(picture, "png"))
    mean = picture.reshape(28, 3, 28, 3).mean((1, 3))
    assert np.abs(small.picture[..., 0] - mean).max() <= 1
    large = reading(file_of(np.array([[0, 255], [0, 255]], np.uint8), "png"))
    assert len(set(large.picture[14, :, 0].tolist())) > 8, "no blocks"


@pytest.mark.parametrize("name", ["png", "webp"])
def test_of_an_animation_the_first_frame(name):
    frames = [Image.new("RGB", (28, 28), colour) for colour in ("white", "black", "red")]
    content = file_of(frames[0], name, save_all=True, append_images=frames[1:], lossless=True)
    assert reading(content).picture.min() >= 254


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (file_of(noise(9, 9), "gif"), "a GIF"),
        (file_of(noise(9, 9), "bmp"), "a BMP"),
        (file_of(noise(9, 9), "tiff"), "a TIFF"),
        (file_of(noise(9, 9), "avif"), "an AVIF or HEIC"),
        (b"%PDF-1.7", "a PDF"),
        (b"\n <svg xmlns=''/>", "an SVG"),
        (b"\x89PNG", "of no known format"),
        (b"hello", "of no known format"),
    ],
)
def test_other_files_are_named(content, what):
    with pytest.raises(UnsupportedMediaType, match=f"the picture is {what}; PNG, JPEG and WebP"):
        header_of(content)


@pytest.mark.parametrize("name", FILES)
def test_truncated_files(name):
    """At any place; a few bytes short of the end, a decoder may have all that it needs."""
    content = FILES[name]
    for size in [*range(80), *range(80, len(content) - 20, 37)]:
        with pytest.raises((InvalidPicture, UnsupportedMediaType)):
            reading(content[:size])


@settings(max_examples=300)
@given(st.sampled_from(sorted(FILES)), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8))
def test_broken_files_are_read_or_refused(name, changes):
    content = bytearray(FILES[name])
    for place, value in changes:
        content[place % len(content)] = value
    with contextlib.suppress(InvalidPicture, UnsupportedMediaType):
        header = header_of(bytes(content))
        if header.pixels < 1 << 20:
            assert read(bytes(content), header, SHAPE).picture.shape == SHAPE


BEGINNINGS = st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"RIFF\0\0\0\0WEBPVP8X", b""])


@given(BEGINNINGS, st.binary(max_size=300))
def test_random_bytes_are_refused(beginning, rest):
    with pytest.raises((InvalidPicture, UnsupportedMediaType)):
        read(beginning + rest, header_of(beginning + rest), SHAPE)


def test_sizes_of_nothing_are_refused():
    png = bytearray(FILES["png"])
    png[16:20] = bytes(4)
    with pytest.raises(InvalidPicture, match="0 x 30"):
        header_of(bytes(png))


def test_a_size_that_differs_from_the_header_s_is_refused():
    """A second frame header, which another reader would believe."""
    jpeg = FILES["jpeg"]
    at = jpeg.index(b"\xff\xc0")
    length = struct.unpack_from(">H", jpeg, at + 2)[0] + 2
    first = bytearray(jpeg[at : at + length])
    first[5:9] = struct.pack(">HH", 5, 5)
    with pytest.raises(InvalidPicture):
        reading(jpeg[:at] + bytes(first) + jpeg[at:])


def test_a_jpeg_with_thousands_of_scans_is_not_decoded():
    jpeg = FILES["progressive jpeg"]
    scan = jpeg.rindex(b"\xff\xda")
    with pytest.raises(InvalidPicture, match="scans; 100 are read at most"):
        header_of(jpeg[:-2] + (jpeg[scan:-2]) * 200 + jpeg[-2:])


def test_a_jpeg_of_segments_alone_is_given_up():
    with pytest.raises(InvalidPicture, match="no frame header"):
        header_of(b"\xff\xd8" + b"\xff\xe1\0\2" * 100_000)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(picture, *chunks):
    """A PNG file with chunks between its header and its pixels."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    file = buffer.getvalue()
    return file[:33] + b"".join(chunks) + file[33:]


def test_texts_and_profiles_of_a_png_are_not_inflated(monkeypatch):
    inflated = []
    monkeypatch.setattr("PIL.PngImagePlugin._safe_zlib_decompress", lambda data: inflated.append(len(data)) or b"")
    text = chunk(b"zTXt", b"bomb\0\0" + zlib.compress(bytes(1 << 20)))
    profile = chunk(b"iCCP", b"bomb\0\0" + zlib.compress(bytes(1 << 20)))
    plain = Image.new("L", (4, 4), 200)
    file = with_chunks(plain, text, profile, text)
    reading = upload.read(file, upload.header_of(file), (4, 4, 1))
    assert (reading.picture == 200).all()
    assert inflated == []


def test_a_png_of_too_many_chunks_is_refused():
    file = with_chunks(Image.new("L", (4, 4)), chunk(b"teXt", b"") * upload.MAX_CHUNKS)
    with pytest.raises(InvalidPicture, match="more than 10000 chunks"):
        upload.read(file, upload.header_of(file), (4, 4, 1))


def test_a_transparent_grey_of_sixteen_bits_is_black():
    levels = np.full((4, 4), 40_000, np.uint16)
    levels[0, 0] = 1234
    file = with_chunks(Image.fromarray(levels), chunk(b"tRNS", struct.pack(">H", 40_000)))
    reading = upload.read(file, upload.header_of(file), (4, 4, 1))
    assert reading.flattened
    assert reading.picture.sum() == reading.picture[0, 0, 0] == round(1234 / 257)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_cut_out_keeps_its_own_colours_at_its_edge(mode):
    """White with its right part cut away in the middle of a pixel of the model: that pixel is white too."""
    levels = np.full((64, 64, 4), 255, np.uint8)
    levels[:, 38:, 3] = 0
    levels[:, 38:, :3] = 7
    picture = Image.fromarray(levels)
    buffer = io.BytesIO()
    (picture.quantize(4) if mode == "P" else picture.convert(mode)).save(buffer, "png")
    cut = upload.read(buffer.getvalue(), upload.header_of(buffer.getvalue()), (8, 8, 4)).picture
    assert (cut[0, :, 3] >= 128).tolist() == [True] * 5 + [False] * 3
    for channels in (1, 3):
        seen = upload.opaque(cut, channels)
        assert seen.shape == (8, 8, channels)
        assert (seen[:, :5] == 255).all()


def test_a_level_that_means_transparent_is_seen_in_16_bits():
    levels = np.full((8, 8), 65535, np.uint16)
    levels[:, 4:] = 257
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "png", transparency=257)
    content = buffer.getvalue()
    cut = upload.read(content, upload.header_of(content), (8, 8, 4)).picture
    assert cut[0, :, 3].tolist() == [255] * 4 + [0] * 4
    assert cut[0, :4].tolist() == [[255] * 4] * 4
