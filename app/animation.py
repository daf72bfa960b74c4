"""Several pictures, one after the other, in one file: animated PNG and WebP. Pillow; no model, no request.

The same pictures, times and provenance give the same bytes, as in `app.codecs`.
"""

import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from app import codecs
from app.codecs import Provenance
from app.engine.jobs import Pictures

AnimationFormat = Literal["webp-animation", "apng"]
Loop = Literal["forever", "boomerang", "once"]
MEDIA_TYPES: Mapping[AnimationFormat, str] = {"webp-animation": "image/webp", "apng": "image/apng"}
DURATION_MS = 100
WEBP_METHOD = 1  # 0 takes a fifth of the time for files of twice the size; above it files hardly shrink


@dataclass(frozen=True, slots=True)
class Animation:
    """How pictures follow each other.

    Attributes:
        image_format: of the file.
        duration_ms: each frame is shown for so long.
        loop: "boomerang" goes back to the beginning the way that it came, and on.
    """

    image_format: AnimationFormat
    duration_ms: int = DURATION_MS
    loop: Loop = "forever"

    def order(self, count: int) -> list[int]:
        """Which of so many pictures each frame shows; neither end twice in a row."""
        back = range(count - 2, 0, -1) if self.loop == "boomerang" else ()
        return [*range(count), *back]

    @property
    def plays(self) -> int:
        """How often, as both formats count: 0 for no end."""
        return 1 if self.loop == "once" else 0

    def story(self) -> dict[str, Any]:
        """What provenance tells of it."""
        return {"duration_ms": self.duration_ms, "loop": self.loop}


def animate(pictures: Pictures, animation: Animation, scale: int, provenance: Provenance) -> bytes:
    """Pictures [n, H, W, C] (n of 2 or more, C of 1, 3 or 4), enlarged, as the frames of one file.

    WebP makes one longer frame of equal ones in a row; APNG keeps every frame.
    """
    order = animation.order(len(pictures))
    frames = (codecs.enlarge(pictures[i : i + 1], scale)[0] for i in order)
    xmp = provenance.xmp().encode()
    return (_apng if animation.image_format == "apng" else _webp)(frames, len(order), animation, xmp)


def _webp(frames: Iterator[Pictures], _: int, animation: Animation, xmp: bytes) -> bytes:
    first, *others = (Image.fromarray(frame[:, :, 0] if frame.shape[2] == 1 else frame) for frame in frames)
    out = io.BytesIO()
    timing = {"duration": animation.duration_ms, "loop": animation.plays}
    first.save(out, "webp", save_all=True, append_images=others, lossless=True, method=WEBP_METHOD, xmp=xmp, **timing)
    return out.getvalue()


def _apng(frames: Iterator[Pictures], count: int, animation: Animation, xmp: bytes) -> bytes:
    """The animated PNG (PNG, third edition, 11.3.6) of whole frames; what knows no animation shows the first."""
    first = next(frames)
    head, end = codecs.png_ends(*first.shape)
    out = [head, *codecs.png_chunk(b"iTXt", codecs.PNG_XMP_HEAD + xmp)]
    out += codecs.png_chunk(b"acTL", struct.pack(">II", count, animation.plays))
    out += [*_control(0, first, animation), *codecs.png_chunk(b"IDAT", codecs.png_data(first))]
    for place, frame in enumerate(frames):
        number = 2 * place + 1  # of the chunk: each frame after the first has two
        out += _control(number, frame, animation)
        out += codecs.png_chunk(b"fdAT", struct.pack(">I", number + 1) + codecs.png_data(frame))
    return b"".join((*out, end))


def _control(number: int, frame: Pictures, animation: Animation) -> tuple[bytes, ...]:
    """What stands before a frame [H, W, C]: the whole area, milliseconds, nothing kept of the frame before."""
    height, width, _ = frame.shape
    content = struct.pack(">IIIIIHHBB", number, width, height, 0, 0, animation.duration_ms, 1000, 0, 0)
    return codecs.png_chunk(b"fcTL", content)
