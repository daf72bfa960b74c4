"""The GGUF container of llama.cpp: metadata and where each tensor lies.

Knows the bytes of the format and mistrusts them: every length is checked against the file before anything is allocated.
The `gguf` package's own reader makes an object of every token, which takes it ten seconds for a small vocabulary, and
believes what a damaged file says; its dequantisation is used, by `gguf_tensors`.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import TrainingError

MAGIC, VERSIONS = b"GGUF", (2, 3)
MAX_FIELDS, MAX_TENSORS, MAX_DIMENSIONS = 1 << 12, 1 << 16, 4
MAX_NAME, MAX_ELEMENTS = 1 << 10, 1 << 40
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies.

    Attributes:
        kind: number of its type of numbers, `gguf.GGMLQuantizationType`.
        shape: outermost dimension first, as numpy and torch have it.
        offset: of its first byte from the beginning of all data.
    """

    kind: int
    shape: tuple[int, ...]
    offset: int


class GgufFile:
    """An open file.

    Attributes:
        path: of the file.
        fields: metadata by name: numbers, strings, and lists of them.
        entries: tensors by name.
    """

    def __init__(self, path: Path) -> None:
        """Read metadata and the list of tensors.

        Raises:
            TrainingError: the file is not GGUF of a known version, or is damaged.
        """
        self.path = path
        self._bytes = _mapped(path)
        cursor = _Cursor(self._bytes, path)
        if cursor.take(4) != MAGIC:
            raise TrainingError(f"{path}: not a GGUF file")
        (version,) = cursor.unpack("I")
        if version not in VERSIONS:
            raise TrainingError(f"{path}: GGUF of version {version}, {' or '.join(map(str, VERSIONS))} expected")
        tensors, fields = cursor.unpack("QQ")
        cursor.check(tensors <= MAX_TENSORS and fields <= MAX_FIELDS, f"{tensors} tensors and {fields} fields")
        self.fields: dict[str, Any] = _once(path, ((cursor.string(MAX_NAME), cursor.value()) for _ in range(fields)))
        self.entries: dict[str, Entry] = _once(path, (cursor.entry() for _ in range(tensors)))
        alignment = self.fields.get("general.alignment", 32)
        cursor.check(isinstance(alignment, int) and 1 <= alignment <= 1 << 20, f"alignment {alignment!r}")
        self._data = -(-cursor.at // alignment) * alignment

    def data(self, name: str, size: int) -> memoryview:
        """The bytes of a tensor.

        Raises:
            TrainingError: they do not lie in the file.
        """
        first = self._data + self.entries[name].offset
        if first + size > len(self._bytes):
            raise TrainingError(f"{self.path}: truncated: {name} ends after the file does")
        return memoryview(self._bytes)[first : first + size]


def _mapped(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise TrainingError(f"{path}: empty") from None


def _once(path: Path, pairs: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise TrainingError(f"{path}: damaged: {name} comes twice")
        found[name] = value
    return found


class _Cursor:
    """Reads forward through a file, never beyond its end."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data, self._path, self.at = data, path, 0

    def check(self, sound: bool, said: str) -> None:
        if not sound:
            raise TrainingError(f"{self._path}: damaged: {said}")

    def take(self, size: int) -> bytes:
        if self.at + size > len(self._data):
            raise TrainingError(f"{self._path}: truncated")
        self.at += size
        return self._data[self.at - size : self.at]

    def unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{layout}", self.take(struct.calcsize(f"<{layout}")))

    def string(self, limit: int = 1 << 24) -> str:
        (size,) = self.unpack("Q")
        self.check(size <= limit, f"a text of {size} bytes")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError as error:
            raise TrainingError(f"{self._path}: damaged: a text is not UTF-8: {error}") from error

    def value(self) -> Any:
        (kind,) = self.unpack("I")
        if kind == ARRAY:
            return self._array()
        return self.string() if kind == STRING else self.unpack(self._scalar(kind))[0]

    def _array(self) -> list[Any]:
        kind, count = self.unpack("IQ")
        if kind == STRING:
            self.check(8 * count <= len(self._data), f"{count} texts")
            return [self.string() for _ in range(count)]
        layout = self._scalar(kind)
        self.check(count <= len(self._data), f"{count} numbers")
        return list(self.unpack(f"{count}{layout}"))

    def _scalar(self, kind: int) -> str:
        self.check(kind in SCALARS, f"a value of type {kind}")
        return SCALARS[kind]

    def entry(self) -> tuple[str, Entry]:
        name = self.string(MAX_NAME)
        (count,) = self.unpack("I")
        self.check(1 <= count <= MAX_DIMENSIONS, f"{name} has {count} dimensions")
        shape = self.unpack(f"{count}Q")
        elements = 1
        for size in shape:
            elements *= size
        self.check(0 < elements <= MAX_ELEMENTS, f"{name} is {list(shape)}")
        kind, offset = self.unpack("IQ")
        return name, Entry(kind, shape[::-1], offset)
