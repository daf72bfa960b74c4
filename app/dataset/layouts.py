"""From parts to what other programs read: a folder of PNG files a class, or the two files of MNIST.

Both can be begun again: the bytes follow from the parts alone.
"""

import contextlib
import gzip
import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from app.dataset import archive, disk
from app.dataset.errors import DiskFailed
from app.dataset.folder import Folder, naming
from app.dataset.manifest import Sums

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
FILES = (IMAGES, LABELS)
UNSIGNED_BYTES = 8  # IDX's number of the type
GZIP_LEVEL = 6
CHUNK = 1 << 20  # bytes
REMEDY = "take the whole set away, and the same command makes it anew"


def write(folder: Folder) -> Sums:
    """Lay the pictures out as the plan says; on return they are on the disk.

    Raises:
        DiskFailed: the system refuses, or a part is no longer sound.
    """
    try:
        with naming(folder.path):
            return {"png": _write_png, "idx": _write_idx}[folder.plan.layout](folder)
    except ValueError as error:
        raise DiskFailed(f"{folder.path}: a part was damaged meanwhile: {error}; run it again") from error


def check(folder: Folder) -> None:
    """Compare a complete set with its manifest.

    Raises:
        DiskFailed: a file is missing, is not what was written, or does not belong there.
    """
    plan, said = folder.plan, folder.manifest
    with naming(folder.path):
        for name in FILES if plan.layout == "idx" else ():
            _compare(folder.path / name, _sum_of([folder.path / name]), said["files"].get(name))
        for index, category in enumerate(said["classes"] if plan.layout == "png" else ()):
            place = folder.path / plan.folder(index)
            _check_listing(place, {plan.file(seed) for seed in plan.seeds(index)})
            _compare(place, _sum_of(place / plan.file(seed) for seed in plan.seeds(index)), category["sha256"])


def _check_listing(place: Path, wanted: set[str]) -> None:
    """Whoever reads the folder takes all that is in it for pictures of the class."""
    found = {path.name for path in place.iterdir()}
    for name in sorted(found - wanted):
        raise DiskFailed(f"{place / name}: does not belong to the set; take it away")
    for name in sorted(wanted - found):
        raise DiskFailed(f"{place / name}: missing; {REMEDY}")


def _compare(place: Path, found: str, wanted: object) -> None:
    if found != wanted:
        said = f"not what the manifest says (sha256 {found[:16]}..., there {str(wanted)[:16]}...)"
        raise DiskFailed(f"{place}: {said}; {REMEDY}")


def _sum_of(paths: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                found.update(chunk)
    return found.hexdigest()


def _write_png(folder: Folder) -> Sums:
    plan, sums = folder.plan, []
    for category in range(len(plan.labels)):
        place, found = folder.path / plan.folder(category), hashlib.sha256()
        place.mkdir(exist_ok=True)
        for part in plan.parts(category):
            for seed, content in zip(part.seeds, folder.pictures(part), strict=True):
                (place / plan.file(seed)).write_bytes(content)
                found.update(content)
        disk.keep(place / plan.file(seed) for seed in plan.seeds(category))
        disk.keep_names(place)
        sums.append(found.hexdigest())
    disk.keep_names(folder.path)
    return Sums(sums)


def _write_idx(folder: Folder) -> Sums:
    """Class after class in turn, so that the first pictures of the file are of all classes."""
    plan = folder.plan
    classes = [hashlib.sha256() for _ in plan.labels]
    height, width, _ = plan.shape
    with folder.making(folder.path / IMAGES) as file, _packed(file, plan.total, height, width) as put:
        for arrays in _arrays(folder):
            for found, array in zip(classes, arrays, strict=True):
                found.update(array.tobytes())
            put(np.stack(arrays, 1).tobytes())
    with folder.making(folder.path / LABELS) as file, _packed(file, plan.total) as put:
        for parts in plan.rounds():
            put(bytes(range(len(parts))) * parts[0].count)
    files = {name: _sum_of([folder.path / name]) for name in FILES}
    return Sums([found.hexdigest() for found in classes], files)


def _arrays(folder: Folder) -> Iterator[list[NDArray[np.uint8]]]:
    """Pictures [n, H, W] of each class, a part of each at a time."""
    for parts in folder.plan.rounds():
        yield [archive.pixels(folder.pictures(part), folder.plan.shape)[..., 0] for part in parts]


@contextlib.contextmanager
def _packed(file: IO[bytes], *shape: int) -> Iterator[Callable[[bytes], object]]:
    """A gzipped IDX file of unsigned bytes: gives what takes its content. No name and no time go into it."""
    with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as packed:
        packed.write(struct.pack(f">HBB{len(shape)}I", 0, UNSIGNED_BYTES, len(shape), *shape))
        yield packed.write
