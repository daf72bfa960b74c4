"""Pictures to bytes: PNG and WebP with provenance, grids, ZIP archives. numpy, isal and Pillow; no model, no request.

The same picture and provenance give the same bytes: nothing that varies (time, request id) goes into them.
"""

import functools
import io
import json
import math
import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import Image

from app.engine.jobs import Pictures

_to_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode  # made once: `dumps` would each time

ImageFormat = Literal["png", "webp"]
MEDIA_TYPES: Mapping[ImageFormat, str] = {"png": "image/png", "webp": "image/webp"}
MAX_WEBP_SIDE = 16383  # a limit of the format
PNG_LEVEL = 1
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # by number of channels: grey, RGB, RGBA
PNG_UP = 2  # the filter: every row as its difference from the row above
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that ZIP can hold; a real one would change the bytes
PNG_XMP_HEAD = b"XML:com.adobe.xmp\0\0\0\0\0"  # keyword, not compressed, no language, no translated keyword
AI_GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
AI_EDITED = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a picture comes from, written into it as XMP (IPTC digital source type, genserve fields).

    Attributes:
        model: `name@digest`.
        parameters: what else made this picture: seed, label, truncation, ...; JSON values.
        source: the IPTC digital source type; another one for a picture of which only a part was generated.
    """

    model: str
    parameters: Mapping[str, Any]
    source: str = AI_GENERATED

    def xmp(self) -> str:
        """The XMP packet."""
        parameters = quoteattr(_to_json(self.parameters))
        return (
            "<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?><x:xmpmeta xmlns:x='adobe:ns:meta/'>"
            "<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><rdf:Description rdf:about='' "
            "xmlns:Iptc4xmpExt='http://iptc.org/std/Iptc4xmpExt/2008-02-29/' xmlns:genserve='urn:genserve:xmp' "
            f"Iptc4xmpExt:DigitalSourceType='{self.source}' "
            f"genserve:model={quoteattr(self.model)} genserve:parameters={parameters}/>"
            "</rdf:RDF></x:xmpmeta><?xpacket end='r'?>"
        )


def encode(picture: Pictures, image_format: ImageFormat, provenance: Provenance) -> bytes:
    """One picture [H, W, C] (C of 1, 3 or 4) as a PNG or lossless WebP file."""
    xmp = provenance.xmp().encode()
    if image_format == "png":
        return _png(picture, xmp)
    image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    out = io.BytesIO()
    image.save(out, "webp", lossless=True, xmp=xmp)
    return out.getvalue()


def _png(picture: Pictures, xmp: bytes) -> bytes:
    """The PNG file (ISO/IEC 15948) of a picture [H, W, C].

    Pillow would do, but takes three (28 x 28) to seventeen (224 x 224) times as long.
    """
    head, end = png_ends(*picture.shape)
    return b"".join((head, *png_chunk(b"iTXt", PNG_XMP_HEAD + xmp), *png_chunk(b"IDAT", png_data(picture)), end))


def png_data(picture: Pictures) -> bytes:
    """The compressed rows of a picture [H, W, C]."""
    height, width, channels = picture.shape
    flat = picture.reshape(height, width * channels)
    rows = np.empty((height, 1 + width * channels), np.uint8)
    rows[:, 0] = PNG_UP
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    return isal_zlib.compress(rows, PNG_LEVEL)


@functools.lru_cache(maxsize=256)
def png_ends(height: int, width: int, channels: int) -> tuple[bytes, bytes]:
    """What stands before and behind the chunks that differ between pictures of one size."""
    header = struct.pack(">IIBBBBB", width, height, 8, PNG_COLOUR_TYPES[channels], 0, 0, 0)
    return b"".join((PNG_SIGNATURE, *png_chunk(b"IHDR", header))), b"".join(png_chunk(b"IEND", b""))


def png_chunk(kind: bytes, content: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Length, kind, content and checksum."""
    checksum = isal_zlib.crc32(content, isal_zlib.crc32(kind))
    return len(content).to_bytes(4, "big"), kind, content, checksum.to_bytes(4, "big")


def enlarge(pictures: Pictures, scale: int) -> Pictures:
    """Repeat every pixel `scale` times each way: [n, H, W, C] -> [n, H * scale, W * scale, C]."""
    return pictures if scale == 1 else pictures.repeat(scale, axis=1).repeat(scale, axis=2)


def grid_shape(count: int) -> tuple[int, int]:
    """Rows and columns of the grid for so many pictures: as square as can be, wider than high."""
    columns = math.isqrt(count - 1) + 1
    return -(-count // columns), columns


def grid(pictures: Pictures) -> NDArray[np.uint8]:
    """Lay pictures [n, H, W, C] out in reading order on one sheet [rows * H, columns * W, C], empty places black."""
    count, height, width, channels = pictures.shape
    rows, columns = grid_shape(count)
    sheet = np.zeros((rows * columns, height, width, channels), np.uint8)
    sheet[:count] = pictures
    laid_out = sheet.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return np.ascontiguousarray(laid_out).reshape(rows * height, columns * width, channels)


def archive(files: Iterable[tuple[str, bytes]]) -> bytes:
    """A ZIP archive of (name, content), uncompressed: pictures are compressed already."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as bundle:
        for name, content in files:
            bundle.writestr(zipfile.ZipInfo(name, ZIP_EPOCH), content)
    return out.getvalue()


def encode_all(pictures: Pictures, image_format: ImageFormat, provenances: Sequence[Provenance]) -> list[bytes]:
    """Each picture as a file of its own."""
    return [encode(picture, image_format, p) for picture, p in zip(pictures, provenances, strict=True)]
