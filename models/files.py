"""The files of a weights folder: their names, written whole or not at all, verified before any parser sees them.

Knows bytes and the frame of a safetensors file; knows nothing of networks or of what a configuration means.
"""

import hashlib
import json
import os
import stat
import struct
from io import BufferedReader
from pathlib import Path
from typing import Any

from models.errors import CheckpointError, short

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
TEMPLATE_FILE = "chat_template.jinja"
CRITIC_FILE = "critic.safetensors"
MAX_DIMENSIONS = 64  # torch's
MAX_HEADER_BYTES = 16 << 20  # a header names tensors; 16 MiB is room for 100,000 of them


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file: another kind, such as a pipe, may never give what it is asked for.

    Raises:
        OSError: it can't be opened, or is of another kind.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError("not a regular file")
    return os.fdopen(fd, "rb")


def verify(path: Path, size: int, sha256: str) -> None:
    """Check a file's size and sha256, and the header of a safetensors file.

    Raises:
        CheckpointError: the file is missing, unreadable, or another than the one that is vouched for.
    """
    try:
        with open_regular(path) as file:
            _check_size(path, file, size)
            if path.name in (WEIGHTS_FILE, CRITIC_FILE):
                _check_header(path, _read_header(path, file, size))
            file.seek(0)
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except OSError as error:
        raise CheckpointError(f"{path}: unreadable: {error}") from error
    if found != sha256:
        wrong = f"sha256 {found[:16]}... where {CONFIG_FILE} says {sha256[:16]}...: tampered with"
        raise CheckpointError(f"{path}: {wrong}")


def _check_size(path: Path, file: BufferedReader, size: int) -> None:
    there = os.fstat(file.fileno()).st_size
    if there != size:
        raise CheckpointError(f"{path}: {there} bytes where {CONFIG_FILE} says {size}: truncated or replaced")


def _read_header(path: Path, file: BufferedReader, size: int) -> bytes:
    """The header of a safetensors file, its length checked before anything is allocated for it."""
    prefix = file.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else None
    if length is None or length > min(size - 8, MAX_HEADER_BYTES):
        raise CheckpointError(f"{path}: the safetensors header does not fit in the file or is over its limit")
    return file.read(length)


def _check_header(path: Path, header: bytes) -> None:
    """What the library lets pass: a tensor that is named twice, and more dimensions than torch knows."""
    try:
        tensors = json.loads(header, object_pairs_hook=_once)
        shapes = [entry["shape"] for name, entry in tensors.items() if name != "__metadata__"]
        if any(len(shape) > MAX_DIMENSIONS for shape in shapes):
            raise ValueError(f"a tensor has more than {MAX_DIMENSIONS} dimensions")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors: {short(str(error))}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice in its header")
    return found
