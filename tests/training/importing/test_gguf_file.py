"""A damaged or hostile GGUF file is one clear line, and takes neither memory nor time."""

import contextlib
import random
import struct

import numpy as np
import pytest

from tests.training.importing import ggufs
from training.errors import TrainingError
from training.importing.gguf_file import GgufFile
from training.importing.gguf_tensors import LLAMA, GgufTensors


def text(value):
    return struct.pack("<Q", len(value)) + value


def header(tensors=0, fields=0, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, fields)


def tensor(name=b"x", shape=(4,), kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.gguf"


def read(path, content):
    path.write_bytes(content)
    file = GgufFile(path)
    found = GgufTensors(file, LLAMA, {})
    return file, {name: found.read(name) for name in found.names()}


def test_what_was_written_is_read(path):
    values = {"a.b": 7, "c": -1.5, "d": "ä\n", "e": True, "f": ["x", ""], "g": [1, 2, 3]}
    arrays = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "y": np.ones(5, np.float16)}
    ggufs.write(path, "llama", values, arrays)
    file, found = read(path, path.read_bytes())
    assert {name: file.fields[name] for name in values} == values
    assert np.array_equal(found["x"], arrays["x"])
    assert found["y"].shape == (5,)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"GGML" + bytes(20), "not a GGUF file"),
        (b"GGUF", "truncated"),
        (header(version=1), "version 1"),
        (header(version=3 << 24), "version"),
        (header(tensors=1 << 60), "tensors"),
        (header(fields=1 << 60), "fields"),
        (header(fields=1) + struct.pack("<Q", 1 << 60), "a text of"),
        (header(fields=1) + text(b"\xff"), "UTF-8"),
        (header(fields=1) + text(b"a") + struct.pack("<I", 77), "type 77"),
        (header(fields=1) + text(b"a") + struct.pack("<IQ", 8, 1 << 50), "a text of"),
        (header(fields=1) + text(b"a") + struct.pack("<IIQ", 9, 8, 1 << 50), "texts"),
        (header(fields=1) + text(b"a") + struct.pack("<IIQ", 9, 4, 1 << 50), "numbers"),
        (header(fields=1) + text(b"a") + struct.pack("<IIQ", 9, 9, 1), "type 9"),
        (header(fields=2) + 2 * (text(b"a") + struct.pack("<II", 4, 1)), "a comes twice"),
        (header(fields=1) + text(b"general.alignment") + struct.pack("<II", 4, 0), "alignment 0"),
        (header(fields=1) + text(b"general.alignment") + struct.pack("<I", 8) + text(b"x"), "alignment 'x'"),
        (header(tensors=2) + 2 * tensor(), "x comes twice"),
        (header(tensors=1) + tensor(shape=()), "0 dimensions"),
        (header(tensors=1) + tensor(shape=(1,) * 5), "5 dimensions"),
        (header(tensors=1) + tensor(shape=(0,)), r"x is \[0\]"),
        (header(tensors=1) + tensor(shape=(1 << 63, 4)), "x is"),
        (header(tensors=1) + tensor(shape=(1 << 39,)), "truncated: x"),
        (header(tensors=1) + tensor(offset=1 << 62) + bytes(99), "truncated: x"),
        (header(tensors=1) + tensor(kind=2) + bytes(99), "rows of 4, no multiple of 32"),
        (header(tensors=2) + tensor() + tensor(name=b"y", offset=12) + bytes(99), "overlaps"),
        (header(tensors=2) + tensor(b"blk.0.attn_q.weight") + tensor(b"model.layers.0.self_attn.q_proj.weight"), "two"),
    ],
)
def test_what_is_wrong_is_said(content, said, path):
    with pytest.raises(TrainingError, match=said) as error:
        read(path, content)
    assert "\n" not in str(error.value)


def test_any_cut_and_any_changed_byte_is_a_clear_error_or_still_a_file(path):
    values = {"a": 7, "d": "text", "f": ["x", "yz"], "g": [1, 2, 3]}
    whole = ggufs.write(path, "llama", values, {"x": np.ones((2, 3), np.float32)}).read_bytes()
    for size in range(0, len(whole) - 32, 7):
        with pytest.raises(TrainingError):
            read(path, whole[:size])
    dice = random.Random(0)
    for _ in range(300):
        changed = bytearray(whole)
        changed[dice.randrange(len(whole))] = dice.randrange(256)
        with contextlib.suppress(TrainingError):
            read(path, bytes(changed))
