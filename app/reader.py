"""Uploaded pictures, as a model takes them, and where they are to be filled.

Knows files and pixels, and which of them are small enough to be read at once; knows neither HTTP nor the engine.
"""

import functools
import time

from app import upload
from app.encoders import Encoders, Watch
from app.engine.jobs import ModelInfo
from app.engine.terms import Terms
from app.errors import InvalidField, PictureTooLarge, RequestError
from app.inpainting import Hole, hole_of
from app.telemetry import Telemetry
from app.upload import Header, Reading, opaque

HALF = 128  # of 255: from there on a mask is white, and up to there a picture is transparent
INLINE = 1 << 14  # pixels and bytes of a file; up to so many, handing it to a thread costs more than it saves


class Reader:
    """Reads files of up to so many pixels."""

    def __init__(self, encoders: Encoders, telemetry: Telemetry, max_pixels: int) -> None:
        self._encoders = encoders
        self._telemetry = telemetry
        self._max_pixels = max_pixels

    async def read(
        self, content: bytes, info: ModelInfo, watch: Watch, terms: Terms, deadline: float, channels: int = 0
    ) -> Reading:
        """Decode what is small at once, the rest in a thread; in the model's channels, or in so many.

        Raises:
            GenserveError: it can't be read, is too large, or would not be read in time.
        """
        header = self._header(content)
        start, size = time.perf_counter(), max(header.pixels, len(content))
        height, width, own = info.image_shape
        read = functools.partial(upload.read, content, header, (height, width, channels or own))
        if size <= INLINE:
            reading = read()
        else:
            reserved = self._encoders.reserve(size, "upload", terms)
            try:
                reading = await self._encoders.run(read, size, "upload", watch, deadline)
            finally:
                self._encoders.release(reserved)
        self._telemetry.read.labels(info.name).observe(time.perf_counter() - start)
        return reading

    async def hole(
        self, image: bytes, mask: bytes | None, info: ModelInfo, watch: Watch, terms: Terms, deadline: float
    ) -> Hole:
        """A picture as the model takes it, and where it is to be filled.

        Raises:
            GenserveError: a file can't be read, the two do not fit each other, or nothing or all is to be filled.
        """
        read = functools.partial(self.read, info=info, watch=watch, terms=terms, deadline=deadline)
        if mask is None:
            if info.image_shape[2] == 4:
                said = f"mask: {info.name} knows transparent pictures, so that it has to be given one"
                raise InvalidField(said, field="mask")
            cut = (await read(image, channels=4)).picture
            return hole_of(opaque(cut, info.image_shape[2]), cut[..., 3] < HALF, "image")
        picture = await read(image)
        try:
            seen = await read(mask, channels=1)
        except RequestError as error:
            raise type(error)(f"mask: {error.detail}", field="mask") from None
        if seen.size != picture.size:
            said = "mask: {} x {} pixels where the picture has {} x {}".format(*seen.size, *picture.size)
            raise InvalidField(said, field="mask")
        return hole_of(picture.picture, seen.picture[..., 0] >= HALF, "mask")

    def _header(self, content: bytes) -> Header:
        """Of a file that may be decoded.

        Raises:
            PictureTooLarge: it may not.
        """
        header = upload.header_of(content)
        if header.pixels > self._max_pixels:
            said = f"{header.width} x {header.height} pixels; the limit is {self._max_pixels} in all"
            raise PictureTooLarge(said)
        return header
