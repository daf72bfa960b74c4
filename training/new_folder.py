"""A folder that is written whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from training.errors import TrainingError


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
