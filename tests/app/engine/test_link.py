"""Frames survive any cutting of the byte stream, and nothing else is taken for one."""

import struct

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from app.engine import link
from app.engine.link import FrameReader, LinkError, pack

ARRAYS = st.lists(
    st.sampled_from(["float32", "int64", "uint8"]).flatmap(
        lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    ),
    max_size=4,
)
HEADERS = st.dictionaries(
    st.text(max_size=5), st.integers(-(2**40), 2**40) | st.text(max_size=9) | st.none(), max_size=3
)
FRAMES = st.lists(st.tuples(HEADERS, ARRAYS), min_size=1, max_size=4)


def stream_of(frames) -> bytes:
    return b"".join(bytes(part) for header, arrays in frames for part in pack({**header, "type": "t"}, arrays))


@given(FRAMES, st.data())
def test_frames_survive_any_cutting(frames, data):
    stream = stream_of(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader, got = FrameReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += reader.feed(stream[start:end])
    assert len(got) == len(frames)
    for frame, (header, arrays) in zip(got, frames, strict=True):
        assert frame.type == "t"
        assert {k: v for k, v in frame.header.items() if k not in ("type", "arrays")} == {
            k: v for k, v in header.items() if k not in ("type", "arrays")
        }
        for ours, theirs in zip(frame.arrays, arrays, strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype
            assert not ours.flags.writeable


def test_one_byte_at_a_time():
    stream, reader = stream_of([({}, [np.arange(3)]), ({}, [])]), FrameReader()
    got = [frame for i in range(len(stream)) for frame in reader.feed(stream[i : i + 1])]
    assert len(got) == 2


def test_strided_arrays_travel_as_what_they_show():
    array = np.arange(12, dtype=np.int64).reshape(3, 4)[:, ::2]
    (frame,) = FrameReader().feed(stream_of([({}, [array])]))
    np.testing.assert_array_equal(frame.arrays[0], array)


def test_contiguous_arrays_are_not_copied():
    array = np.arange(4, dtype=np.float32)
    assert np.shares_memory(np.asarray(pack({"type": "t"}, [array])[1]), array)


@pytest.mark.parametrize("array", [np.zeros(1), np.array(["a"]), np.array([object()]), np.zeros(1, np.int32)])
def test_other_dtypes_do_not_travel(array):
    with pytest.raises(LinkError, match="do not travel"):
        pack({"type": "t"}, [array])


def test_size_limits_hold_on_both_sides(monkeypatch):
    stream = stream_of([({}, [np.zeros(100, np.uint8)])])
    monkeypatch.setattr(link, "MAX_BODY", 99)
    with pytest.raises(LinkError, match="over its limit"):
        pack({"type": "t"}, [np.zeros(100, np.uint8)])
    with pytest.raises(LinkError, match="over its limit"):
        list(FrameReader().feed(stream[:8]))  # refused from its lengths, before anything is stored


def raw_frame(header: object, body: bytes = b"") -> bytes:
    packed = msgpack.packb(header)
    return struct.pack("!II", len(packed), len(body)) + packed + body


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ([], b""),
        (None, b""),
        ({}, b""),
        ({"type": "t"}, b""),
        ({"type": 1, "arrays": []}, b""),
        ({"type": "t", "arrays": 1}, b""),
        ({"type": "t", "arrays": []}, b"x"),
        ({"type": "t", "arrays": [["object", [1]]]}, b"12345678"),
        ({"type": "t", "arrays": [[["uint8"], [1]]]}, b"1"),
        ({"type": "t", "arrays": [["uint8", [2]]]}, b"1"),
        ({"type": "t", "arrays": [["uint8", [-1]]]}, b"1"),
        ({"type": "t", "arrays": [["uint8", None]]}, b"1"),
        ({"type": "t", "arrays": [["uint8", "1"]]}, b"1"),
        ({"type": "t", "arrays": [["uint8", [2**63]]]}, b"1"),
        ({"type": "t", "arrays": [["uint8", [2**63, 2]]]}, b""),
        ({"type": "t", "arrays": [["uint8"]]}, b"1"),
    ],
)
def test_malformed_frames(header, body):
    with pytest.raises(LinkError, match="malformed"):
        list(FrameReader().feed(raw_frame(header, body)))


@given(st.binary(max_size=200), st.data())
def test_garbage_is_refused_or_awaited_but_never_crashes(garbage, data):
    """A valid frame with some bytes changed, or none of it valid at all."""
    stream = bytearray(stream_of([({}, [np.arange(3), np.zeros((2, 2), np.uint8)])]))
    for _ in range(data.draw(st.integers(0, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    for attempt in (bytes(stream), garbage, struct.pack("!II", len(garbage), 0) + garbage):
        try:
            list(FrameReader().feed(attempt))
        except LinkError:
            continue
