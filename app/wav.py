"""Sound to bytes: WAV files (RIFF; IBM and Microsoft 1991) with provenance. numpy; no model, no request.

The same sound and provenance give the same bytes. A file that is written before its length is known says, as is usual,
that it is as long as can be: players read on to its end.
"""

import json
import struct

import numpy as np
from numpy.typing import NDArray

from app.codecs import AI_GENERATED, Provenance

SAMPLE_BYTES = 2
UNKNOWN = 0xFFFFFFFF  # length of a file, or a part of one, that has no end yet
LEVELS = 256
LOUDEST = 32767
SOFTWARE = "Genserve"


def _expanded() -> NDArray[np.int16]:
    """What each level of 8-bit mu-law stands for: y = 2 q / 255 - 1, x = sign(y) (256^|y| - 1) / 255."""
    compressed = 2.0 * np.arange(LEVELS) / (LEVELS - 1) - 1.0
    samples = np.sign(compressed) * (np.power(float(LEVELS), np.abs(compressed)) - 1.0) / (LEVELS - 1)
    return np.rint(samples * LOUDEST).astype("<i2")


MU_LAW = _expanded()


def samples(levels: list[int]) -> bytes:
    """Levels of mu-law, 0 to 255, as 16-bit samples."""
    return MU_LAW[np.array(levels, np.int64)].tobytes()


def head(sample_rate: int, provenance: Provenance, count: int | None) -> bytes:
    """What stands before 16-bit samples of one channel: form, story, and how many there are, if that is known."""
    form = struct.pack("<HHIIHH", 1, 1, sample_rate, sample_rate * SAMPLE_BYTES, SAMPLE_BYTES, 8 * SAMPLE_BYTES)
    info = b"INFO" + _chunk(b"ICMT", _story(provenance)) + _chunk(b"ISFT", SOFTWARE.encode() + b"\0")
    before = b"WAVE" + _chunk(b"fmt ", form) + _chunk(b"LIST", info)
    size = UNKNOWN if count is None else count * SAMPLE_BYTES
    whole = UNKNOWN if count is None else len(before) + 8 + size
    return b"RIFF" + struct.pack("<I", whole) + before + b"data" + struct.pack("<I", size)


def _story(provenance: Provenance) -> bytes:
    """One line of JSON that says that this is generated, by which model and from what."""
    story = {
        "digital_source_type": AI_GENERATED,
        "model": provenance.model,
        "parameters": dict(provenance.parameters),
    }
    return json.dumps(story, sort_keys=True, separators=(",", ":")).encode() + b"\0"


def _chunk(kind: bytes, content: bytes) -> bytes:
    """A part of the file; one of odd length is padded."""
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
