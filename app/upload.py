"""From any picture that somebody sends to the pixels that a model takes, by one rule. Pillow and numpy; no model.

The header is read here, before any library sees the file: by its size in pixels the caller decides whether the file is
decoded at all.
"""

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from app.codecs import PNG_SIGNATURE
from app.engine.jobs import Pictures
from app.errors import InvalidPicture, UnsupportedMediaType

UploadFormat = Literal["png", "jpeg", "webp"]
JPEG_SIGNATURE = b"\xff\xd8\xff"
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of a frame header, which holds the size
JPEG_SCAN = b"\xff\xda"
PNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND"}  # texts and profiles are not wanted, and may be bombs
MAX_CHUNKS = 10_000  # of a PNG file
MAX_SEGMENTS = 1000  # of a JPEG file before its frame header
MAX_SCANS = 100  # of a JPEG file: each goes over all of its pixels, and costs but a few bytes
WEBP_HEADER = 30  # bytes, after which all three kinds of WebP have told their size
ORIENTATION = 0x0112  # in EXIF
TURNS: Mapping[int, Image.Transpose] = {  # what undoes an orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
FAMILIAR: Mapping[bytes, str] = {  # beginnings of files that people take for pictures that can be read
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"%PDF": "a PDF",
    b"<svg": "an SVG",
    b"<?xml": "XML",
    b"{": "JSON",
}
SIDEWAYS = (5, 6, 7, 8)
MODES: Mapping[int, str] = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's, by number of channels
HEIF_BRAND = b"ftyp"  # of AVIF and HEIC, after a length of four bytes


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself: its format, and its size as it is stored."""

    format: UploadFormat
    width: int
    height: int

    @property
    def pixels(self) -> int:
        """To be decoded."""
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class Reading:
    """A picture as a model takes it, and what was done to it.

    Attributes:
        picture: [H, W, C] of the model.
        header: of the file.
        orientation: its EXIF orientation, which was undone; 1 when it was upright.
        crop: left, top, right and bottom of what was kept of the picture as it is stored; None for all of it.
        resized: it had another size.
        grey: it had colours, which are gone.
        flattened: it had transparency, behind which is black now.
    """

    picture: Pictures
    header: Header
    orientation: int
    crop: tuple[int, int, int, int] | None
    resized: bool
    grey: bool
    flattened: bool

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the file's picture when it is upright."""
        width, height = self.header.width, self.header.height
        return (height, width) if self.orientation in SIDEWAYS else (width, height)


def header_of(content: bytes) -> Header:
    """Format and size of a file, by its first bytes.

    Raises:
        UnsupportedMediaType: it is neither PNG nor JPEG nor WebP.
        InvalidPicture: it begins like one, and is none.
    """
    try:
        if content.startswith(PNG_SIGNATURE):
            return _checked("png", *_png_size(content))
        if content.startswith(JPEG_SIGNATURE):
            return _checked("jpeg", *_jpeg_size(content))
        if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
            return _checked("webp", *_webp_size(content))
    except (IndexError, struct.error):
        raise InvalidPicture("the picture ends within its header") from None
    raise UnsupportedMediaType(f"the picture is {_looks_like(content)}; PNG, JPEG and WebP can be read")


def _looks_like(content: bytes) -> str:
    if not content:
        return "empty"
    if content[4:8] == HEIF_BRAND:
        return "an AVIF or HEIC"
    beginning = content[:64].lstrip()
    return next((name for start, name in FAMILIAR.items() if beginning.startswith(start)), "of no known format")


def _checked(name: UploadFormat, width: int, height: int) -> Header:
    if not width or not height:
        raise InvalidPicture(f"the picture is {width} x {height} pixels, as its header says")
    return Header(name, width, height)


def _png_size(content: bytes) -> tuple[int, int]:
    kind, width, height = struct.unpack_from(">4sII", content, 12)
    if kind != b"IHDR":
        raise InvalidPicture("the PNG does not begin with its header")
    return width, height


def _jpeg_size(content: bytes) -> tuple[int, int]:
    """Of the first frame header; segments before it are stepped over."""
    if (scans := content.count(JPEG_SCAN)) > MAX_SCANS:
        raise InvalidPicture(f"the JPEG has {scans} scans; {MAX_SCANS} are read at most")
    at = 2
    for _ in range(MAX_SEGMENTS):
        start, marker = content[at], content[at + 1]
        if start != 0xFF:
            break
        if marker in JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", content, at + 5)
            return width, height
        at += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", content, at + 2)[0]  # 0xFF may be repeated
    raise InvalidPicture("the JPEG has no frame header where one belongs")


def _webp_size(content: bytes) -> tuple[int, int]:
    """Of the canvas (VP8X), or of the only picture, lossless (VP8L) or lossy (VP8)."""
    kind, data = content[12:16], content[20:WEBP_HEADER]
    if len(data) < WEBP_HEADER - 20:
        raise IndexError
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(data[6:8], "little") & 0x3FFF, int.from_bytes(data[8:10], "little") & 0x3FFF
    raise InvalidPicture("the WebP holds no picture where one belongs")


def read(content: bytes, header: Header, shape: tuple[int, int, int]) -> Reading:
    """Decode a file and bring its picture to (height, width, channels): upright, cropped, resized, grey.

    Args:
        content: the file.
        header: of the file; the caller has found its size acceptable.
        shape: that of the model's pictures.

    Raises:
        InvalidPicture: the file is truncated or broken, or is not what its header says.
    """
    try:
        file = _without_texts(content) if header.format == "png" else content
        with Image.open(io.BytesIO(file), formats=(header.format,)) as image:
            if image.size != (header.width, header.height):
                raise InvalidPicture("the picture has not the size that its header says")
            image.load()
            return _fit(image, header, shape)
    except InvalidPicture:
        raise
    except Exception as error:  # Pillow's readers raise whatever their parsing comes upon
        raise InvalidPicture(f"the {header.format.upper()} is truncated or broken") from error


def opaque(picture: Pictures, channels: int) -> Pictures:
    """The colours of [H, W, 4], whatever their opacity, as [H, W, channels] of 1 or 3.

    Where a picture ends within a pixel, its own colour is meant, and not that of what it stands in front of.
    """
    colours = Image.fromarray(picture[..., :3]).convert(MODES[channels])
    return np.asarray(colours).reshape(*picture.shape[:2], channels)


def _without_texts(content: bytes) -> bytes:
    """A PNG without the chunks that say nothing about its pixels: inflating them would take as long as it pleases.

    Raises:
        InvalidPicture: it has too many chunks.
    """
    at, kept = len(PNG_SIGNATURE), [PNG_SIGNATURE]
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(content):
            return b"".join(kept)  # what is missing, Pillow finds out
        size, kind = struct.unpack_from(">I4s", content, at)
        if kind in PNG_KEPT:
            kept.append(content[at : at + 12 + size])
        at += 12 + size
    raise InvalidPicture(f"the PNG has more than {MAX_CHUNKS} chunks")


def _fit(image: Image.Image, header: Header, shape: tuple[int, int, int]) -> Reading:
    """Large pictures are copied as seldom as can be: what can wait is done to the small one."""
    height, width, channels = shape
    orientation = _orientation(image)
    wide, high = (height, width) if orientation in SIDEWAYS else (width, height)
    even, flattened = _even(image, channels)
    crop = _crop(even.width, even.height, wide, high)
    small = _in_eight_bits(_resized(even, crop, wide, high))
    turned = small.transpose(TURNS[orientation]) if orientation in TURNS else small
    return Reading(
        picture=np.asarray(turned.convert(MODES[channels])).reshape(shape),
        header=header,
        orientation=orientation,
        crop=None if crop == (0, 0, *even.size) else crop,
        resized=(crop[2] - crop[0], crop[3] - crop[1]) != (wide, high),
        grey=small.mode != "L" and channels == 1,
        flattened=flattened,
    )


def _orientation(image: Image.Image) -> int:
    """By EXIF; what says nothing that can be understood is upright."""
    try:
        said = image.getexif().get(ORIENTATION)
    except Exception:  # noqa: BLE001  # Pillow's parser raises many kinds, and the pixels are fine
        return 1
    return next((orientation for orientation in TURNS if orientation == said), 1)


def _even(image: Image.Image, channels: int) -> tuple[Image.Image, bool]:
    """A picture whose values may be averaged, and whether it has lost its transparency.

    Colours that are multiplied by their opacity are those in front of black.
    """
    if image.mode.startswith("I"):  # grey of 16 bits, of which one level may be transparent
        clear, levels = image.info.get("transparency"), np.asarray(image)
        if clear is None:
            return image, False
        black = Image.fromarray(np.where(levels == clear, 0, levels))
        if channels < 4:
            return black, True
        alpha = Image.fromarray(levels != clear).convert("L")
        return Image.merge("LA", (_in_eight_bits(black), alpha)).convert("RGBA"), False
    if channels == 4:
        return image.convert("RGBA"), False
    if image.has_transparency_data:
        kind = "LA" if image.mode in ("1", "L", "LA") else "RGBA"
        return image.convert(kind).convert(kind[:-1] + "a"), True
    if image.mode in ("L", "RGB"):
        return image, False
    return image.convert("L" if image.mode == "1" else "RGB"), False


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """An averaged picture as L, RGB or RGBA; Pillow itself would cut 16 bits off at 255."""
    if image.mode.startswith("I"):
        return Image.fromarray(np.rint(np.asarray(image).clip(0, 0xFFFF) / 257.0).astype(np.uint8))
    if image.mode == "La":
        return image.getchannel(0)
    return Image.merge("RGB", image.split()[:3]) if image.mode == "RGBa" else image


def _crop(width: int, height: int, to_width: int, to_height: int) -> tuple[int, int, int, int]:
    """The largest box of the wanted shape in the middle of a picture: left, top, right, bottom."""
    kept_width = min(width, max(1, height * to_width // to_height))
    kept_height = min(height, max(1, width * to_height // to_width))
    left, top = (width - kept_width) // 2, (height - kept_height) // 2
    return left, top, left + kept_width, top + kept_height


def _resized(image: Image.Image, crop: tuple[int, int, int, int], width: int, height: int) -> Image.Image:
    """A box of a picture in another size.

    Smaller by area average, which takes back exactly what was enlarged by whole pixels; larger by bicubic curves.
    """
    if (crop[2] - crop[0], crop[3] - crop[1]) == (width, height):
        return image.crop(crop)
    smaller = crop[2] - crop[0] >= width
    return image.resize((width, height), Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC, crop)
