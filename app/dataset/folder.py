"""The folder of a set: parts that have come, until all are there; then the set itself. It knows the disk alone.

A part is the service's answer as it came, written whole or not at all, so that whatever lies here after a kill counts.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from app.dataset import archive, disk, manifest
from app.dataset.errors import DiskFailed, WrongFolder
from app.dataset.plan import Part, Plan

PARTS = ".parts"
LOCK = "lock"


class Folder:
    """One set's folder; locked while it is entered."""

    def __init__(self, path: Path, plan: Plan) -> None:
        """Nothing is touched yet."""
        self.path, self.plan = path, plan
        self.manifest: dict[str, Any] = manifest.begun(plan)
        self._parts = path / PARTS
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "Folder":
        """Make the folder, or find the set of the same plan in it.

        Raises:
            WrongFolder: it holds something else, or another process writes it.
            DiskFailed: the system refuses.
        """
        with naming(self.path):
            self._look()
            disk.make(self._parts)
            try:
                self._lock()
                if not self._look():
                    self._declare(self.manifest)
            except BaseException:
                self._open.close()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        """Let the lock go; parts are kept until the set is complete."""
        if self.complete:
            shutil.rmtree(self._parts, ignore_errors=True)
        self._open.close()

    def _look(self) -> bool:
        """Whether the set was begun before; its manifest, then, is the one that counts."""
        names = set(os.listdir(self.path)) - {PARTS} if self.path.exists() else set()  # noqa: PTH208  # names alone
        if manifest.NAME not in names:
            if names:
                raise WrongFolder(f"{self.path}: holds {sorted(names)[0]!r} and no {manifest.NAME}; take a new folder")
            return False
        place = self.path / manifest.NAME
        self.manifest = manifest.read(place.read_bytes(), self.plan, str(place))
        return True

    def _lock(self) -> None:
        file = self._open.enter_context((self._parts / LOCK).open("wb"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WrongFolder(f"{self.path}: another process is writing it") from None

    @property
    def complete(self) -> bool:
        """Whether the set is finished."""
        return self.manifest["complete"] is True

    def holds(self, part: Part) -> bool:
        """Whether a part is there and sound."""
        with naming(self.path):
            try:
                self.pictures(part)
            except (FileNotFoundError, ValueError):
                return False
        return True

    def put(self, part: Part, content: bytes) -> None:
        """Keep a part.

        Raises:
            DiskFailed: the system does not write it.
        """
        with naming(self.path), self.making(self._place(part)) as file:
            file.write(content)

    def pictures(self, part: Part) -> list[bytes]:
        """The PNG files of a part.

        Raises:
            FileNotFoundError: it has not come yet.
            ValueError: it is damaged.
        """
        files = archive.unpack(self._place(part).read_bytes(), part)
        archive.pixels(files, self.plan.shape)
        return files

    def _place(self, part: Part) -> Path:
        return self._parts / f"{part.category}-{part.seed}.zip"

    @contextlib.contextmanager
    def making(self, place: Path) -> Iterator[IO[bytes]]:
        """A file that gets its name when it is whole and on the disk; then the name is kept, too."""
        temporary = self._parts / f"{place.name}.tmp"
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(place)
        disk.keep_names(place.parent)

    def finish(self, sums: manifest.Sums) -> None:
        """Say that the set is complete: all of it is on the disk, for what it was made of is taken away after this.

        Raises:
            DiskFailed: the system does not write the manifest.
        """
        with naming(self.path):
            self._declare(manifest.completed(self.manifest, sums))

    def _declare(self, document: dict[str, Any]) -> None:
        with self.making(self.path / manifest.NAME) as file:
            file.write(manifest.to_bytes(document))
        self.manifest = document


@contextlib.contextmanager
def naming(place: Path) -> Iterator[None]:
    """Errors of the system as one line that names the file, or this place where the system names none.

    Raises:
        DiskFailed: the system refused something within.
    """
    try:
        yield
    except OSError as error:
        raise DiskFailed(f"{error.filename or place}: {error.strerror or error}") from error
