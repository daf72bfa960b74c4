"""Writing a safetensors file, one tensor at a time.

Knows the format; knows nothing of where tensors come from.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterable
from io import BufferedWriter
from pathlib import Path

import torch
from torch import Tensor

from training.errors import TrainingError

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
ENTRY = 160  # bytes of a header's entry besides the tensor's name
ALIGNMENT = 64


def write_tensors(path: Path, names: Iterable[str], tensors: Iterable[tuple[str, Tensor]]) -> tuple[str, int]:
    """Write a safetensors file of these tensors, holding one of them at a time; sha256 and size of the file.

    The header comes first in the file and is known last, so room is left for it: the format lets a header end in
    spaces.

    Raises:
        TrainingError: a tensor would not lie at a multiple of the size of its numbers.
        OSError: the file can't be written.
    """
    room = sum(len(json.dumps(name)) + ENTRY for name in names)
    room += -(room + 8) % ALIGNMENT
    header, offset = {}, 0
    with path.open("wb") as file:
        file.seek(8 + room)
        for name, tensor in tensors:
            if offset % tensor.element_size():
                raise TrainingError(f"{name}: can't follow a tensor of {offset} bytes")
            end = offset + tensor.numel() * tensor.element_size()
            header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
            file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
            offset = end
        _write_header(file, json.dumps(header, separators=(",", ":")).encode(), room)
    with path.open("rb") as written:
        return hashlib.file_digest(written, "sha256").hexdigest(), path.stat().st_size


def _write_header(file: BufferedWriter, header: bytes, room: int) -> None:
    assert len(header) <= room, "an entry is longer than foreseen"
    file.seek(0)
    file.write(struct.pack("<Q", room) + header.ljust(room))
    file.flush()
    os.fsync(file.fileno())
