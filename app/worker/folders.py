"""Which folders of weights are served, and in which order.

Knows files and names; knows neither networks nor devices.
"""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from app.worker.faults import RegistryError
from models.config import read_config
from models.errors import CheckpointError
from models.files import CONFIG_FILE

ORDER_FILE = "order.txt"  # beside the weights folders: names of models that come first, one a line
MAX_ORDER = 1 << 16  # bytes of it

log = logging.getLogger("genserve.worker")


def find_folders(weights: Path, names: tuple[str, ...]) -> list[Path]:
    """Weights folders in the order of these names; all of them when there are none, those of `ORDER_FILE` first.

    The first model of a kind is the one that a request without a name gets.

    Raises:
        RegistryError: the folder, or a folder of a given name, does not exist, or there is none at all.
    """
    try:
        found = {path.name: path for path in sorted(weights.iterdir()) if (path / CONFIG_FILE).is_file()}
    except OSError as error:
        raise RegistryError(f"{weights}: the folder of weights can't be read: {error.strerror}") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise RegistryError(f"{weights}: no weights folder {', '.join(missing)} (found: {', '.join(found) or 'none'})")
    if not found:
        raise RegistryError(f"{weights}: holds no weights folder (a folder with a {CONFIG_FILE})")
    return [found[name] for name in dict.fromkeys(names or [*_first(weights, found), *found])]


def broken_folders(folders: Sequence[Path]) -> dict[str, str]:
    """What is wrong with those folders whose configuration can't be read, by name; said in the log."""
    out = {}
    for folder in folders:
        try:
            read_config(folder)
        except CheckpointError as error:
            log.error("skipped: %s", error)
            out[folder.name] = str(error)
    return out


def _first(weights: Path, found: Collection[str]) -> list[str]:
    """The names that a folder of weights wants first; one that is not there is passed over, so that it may be removed.

    Raises:
        RegistryError: the file can't be read, or is too large to be a list of names.
    """
    path = weights / ORDER_FILE
    try:
        with path.open("rb") as file:
            content = file.read(MAX_ORDER + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RegistryError(f"{path}: can't be read: {error.strerror}") from error
    if len(content) > MAX_ORDER:
        raise RegistryError(f"{path}: more than {MAX_ORDER} bytes; it holds names, one a line")
    return [name for name in content.decode(errors="replace").split() if name in found]
