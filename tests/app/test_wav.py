"""WAV files: the standard library's reader and a parser of chunks say what is in them."""

import io
import json
import struct
import wave

import numpy as np
import pytest

from app import wav
from app.codecs import AI_GENERATED, Provenance
from models import mu_law

STORY = Provenance("voice@0123", {"seed": 7, "prompt": "señor, 你好"})


def chunks(data):
    """The parts of a RIFF body by their names, in order; one of unknown length goes to the end."""
    found, at = {}, 0
    while at < len(data):
        kind, size = data[at : at + 4], struct.unpack("<I", data[at + 4 : at + 8])[0]
        end = len(data) if size == wav.UNKNOWN else at + 8 + size
        assert end <= len(data)
        found[kind] = data[at + 8 : end]
        at = end + end % 2
    return found


def read(content):
    """Rate, samples and story of a file."""
    assert content[:4] == b"RIFF"
    assert content[8:12] == b"WAVE"
    parts = chunks(content[12:])
    assert list(parts) == [b"fmt ", b"LIST", b"data"]
    info = chunks(parts[b"LIST"][4:])
    assert parts[b"LIST"][:4] == b"INFO"
    assert info[b"ISFT"] == b"Genserve\0"
    with wave.open(io.BytesIO(content)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getcomptype()) == (1, 2, "NONE")
        return file.getframerate(), np.frombuffer(parts[b"data"], "<i2"), json.loads(info[b"ICMT"].rstrip(b"\0"))


@pytest.mark.parametrize("count", [0, 1, 2, 999])
@pytest.mark.parametrize("prompt", ["", "a", "ab", "你"])
def test_a_file_holds_its_samples_and_their_story(count, prompt):
    levels = [(7 * place) % 256 for place in range(count)]
    story = Provenance("voice@0123", {"prompt": prompt})
    content = wav.head(8000, story, count) + wav.samples(levels)
    assert struct.unpack("<I", content[4:8])[0] == len(content) - 8
    rate, samples, told = read(content)
    assert (rate, samples.tolist()) == (8000, wav.MU_LAW[levels].tolist())
    assert told == {"digital_source_type": AI_GENERATED, "model": "voice@0123", "parameters": {"prompt": prompt}}
    with wave.open(io.BytesIO(content)) as file:
        assert file.getnframes() == count


def test_a_file_of_unknown_length_is_read_to_its_end():
    content = wav.head(8000, STORY, None) + wav.samples([1, 2, 3])
    known = wav.head(8000, STORY, 3) + wav.samples([1, 2, 3])
    assert len(content) == len(known), "they differ in two numbers only"
    assert sum(a != b for a, b in zip(content, known, strict=True)) <= 8
    assert read(content)[1].tolist() == read(known)[1].tolist()
    assert read(content)[2]["parameters"] == STORY.parameters


def test_levels_are_those_that_networks_are_trained_on():
    """Encoded again they are the same, silence is silent, and they rise."""
    samples = wav.MU_LAW.astype(np.float64) / wav.LOUDEST
    assert mu_law.encode(samples).tolist() == list(range(256))
    assert abs(int(wav.MU_LAW[128])) < 5
    assert (np.diff(wav.MU_LAW.astype(int)) > 0).all()
    assert (wav.MU_LAW[0], wav.MU_LAW[255]) == (-wav.LOUDEST, wav.LOUDEST)
    np.testing.assert_allclose(samples, mu_law.decode(np.arange(256)), atol=1 / wav.LOUDEST)
