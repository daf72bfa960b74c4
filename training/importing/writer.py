"""Writing a weights folder whole or not at all, one tensor at a time.

Knows the safetensors format and folders; knows nothing of where tensors come from.
"""

import contextlib
import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator
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


@contextlib.contextmanager
def new_folder(target: Path, replace: bool) -> Iterator[Path]:
    """A folder of the target's name to write into, which takes the target's place at the end unless something raises.

    It lies beside the target, so that taking its place is one step.

    Raises:
        TrainingError: the target exists and is not to be replaced.
        OSError: it can't be written.
    """
    if target.exists() and not replace:
        raise TrainingError(f"{target} exists already; --force replaces it")
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        fresh = beside / target.name
        fresh.mkdir()
        yield fresh
        _sync(fresh)
        if target.exists():
            target.rename(beside / "old")
        fresh.rename(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
