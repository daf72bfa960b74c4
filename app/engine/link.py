"""Frames between the HTTP process and a device worker: a msgpack header and raw buffers over a stream socket.

A frame is two big-endian 32-bit lengths (header, body), the header and the body. The header is a map with a "type"; the
body is the concatenation of C-contiguous arrays whose dtype and shape the header lists under "arrays". Nothing here is
ever unpickled.
"""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

PREFIX = struct.Struct("!II")
MAX_HEADER = 64 << 20
MAX_BODY = 1 << 30
DTYPES: Mapping[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "int64": np.dtype("<i8"), "uint8": np.dtype("u1")}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class LinkError(Exception):
    """The other side sent something that is not a frame of ours."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message: a header and the arrays that came with it (read-only views of the received bytes)."""

    header: Mapping[str, Any]
    arrays: tuple[NDArray[Any], ...] = ()

    @property
    def type(self) -> str:
        """What kind of message it is."""
        return str(self.header["type"])


def pack(header: Mapping[str, Any], arrays: Sequence[NDArray[Any]] = ()) -> list[bytes | memoryview]:
    """Encode a frame as buffers to be written one after the other; arrays are not copied when contiguous.

    Raises:
        LinkError: an array's dtype is not one of the three that travel, or the frame is too large.
    """
    described = []
    for array in arrays:
        if (name := DTYPE_NAMES.get(array.dtype)) is None:
            raise LinkError(f"arrays of dtype {array.dtype} do not travel")
        described.append((name, array.shape))
    packed: bytes = msgpack.packb({**header, "arrays": described})
    body = sum(array.nbytes for array in arrays)
    if len(packed) > MAX_HEADER or body > MAX_BODY:
        raise LinkError(f"frame of {len(packed)} + {body} bytes is over its limit")
    buffers: list[bytes | memoryview] = [PREFIX.pack(len(packed), body) + packed]
    buffers += [np.ascontiguousarray(array).data.cast("B") for array in arrays if array.nbytes]
    return buffers


class FrameReader:
    """Cuts a byte stream into frames; holds at most one incomplete frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take the next bytes of the stream and yield the frames that are complete now.

        Raises:
            LinkError: the bytes are not a frame; the stream can't be used any more.
        """
        self._buffer += data
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        if len(self._buffer) < PREFIX.size:
            return None
        header_size, body_size = PREFIX.unpack_from(self._buffer)
        if header_size > MAX_HEADER or body_size > MAX_BODY:
            raise LinkError(f"frame of {header_size} + {body_size} bytes is over its limit")
        end = PREFIX.size + header_size + body_size
        if len(self._buffer) < end:
            return None
        with memoryview(self._buffer) as view:
            header_bytes = bytes(view[PREFIX.size : end - body_size])
            body = bytes(view[end - body_size : end])
        del self._buffer[:end]
        return _unpack(header_bytes, body)


def _unpack(header_bytes: bytes, body: bytes) -> Frame:
    try:
        header = msgpack.unpackb(header_bytes)
        arrays, offset = [], 0
        for name, shape in header["arrays"]:
            dtype, count = DTYPES[name], math.prod(shape)
            arrays.append(np.frombuffer(body, dtype, count, offset).reshape(shape))
            offset += count * dtype.itemsize
        if not isinstance(header["type"], str) or offset != len(body):
            raise ValueError(f"{len(body)} bytes of body where the header describes {offset}")
    except (KeyError, OverflowError, TypeError, ValueError, msgpack.UnpackException) as error:
        raise LinkError(f"malformed frame: {error!r}") from error
    return Frame(header, tuple(arrays))
