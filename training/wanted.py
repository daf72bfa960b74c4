"""What an evaluation is asked for beside its metrics: the flags that weights folders and services share.

Free of torch, so that `genserve` can declare the flags of a command that it may never run.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

from training.errors import TrainingError

MAX_TRUNCATIONS = 20


@dataclass(frozen=True)
class Wanted:
    """Flags that were checked.

    Attributes:
        truncations: points of the curve of quality against diversity; none: no curve.
        inception: TorchScript file of the network for the standard FID.
        report: the HTML page to write.
        json: the JSON file to write.
    """

    truncations: tuple[float, ...] = ()
    inception: Path | None = None
    report: Path | None = None
    json: Path | None = None


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags; `read` checks them."""
    add = parser.add_argument
    add("--report", metavar="FILE", help="write an HTML page that holds everything, and a JSON file beside it")
    add("--json", metavar="FILE", help="write the figures here (default: beside the report)")
    add(
        "--truncations",
        metavar="T,T,...",
        help="measure quality against diversity at these truncations too, such as 0.4,0.6,0.8,1",
    )
    add(
        "--inception",
        metavar="FILE",
        help="measure the standard FID too, with this TorchScript file (inception-2015-12-05.pt; it is code, trust it)",
    )


def read(options: argparse.Namespace) -> Wanted:
    """The flags, checked before anything is measured: nobody wants to hear of a missing folder at the end.

    Raises:
        TrainingError: a truncation is out of range, or a file can't be written where it is wanted.
    """
    page = _file("--report", options.report)
    figures = _file("--json", options.json)
    if page is not None and figures is None:
        figures = page.with_suffix(".json")
    if page is not None and page == figures:
        raise TrainingError(f"--report {page}: the JSON file beside it would have the same name")
    return Wanted(
        _truncations(options.truncations), Path(options.inception) if options.inception else None, page, figures
    )


def _file(flag: str, given: str | None) -> Path | None:
    if given is None:
        return None
    path = Path(given)
    if not given or path.is_dir() or not path.absolute().parent.is_dir():
        raise TrainingError(f"{flag} {given!r}: not a file in a folder that exists")
    return path


def _truncations(given: str | None) -> tuple[float, ...]:
    try:
        found = tuple(sorted({float(part) for part in (given or "").split(",") if part.strip()}))
    except ValueError:
        raise TrainingError(f"--truncations {given}: numbers with commas between them expected") from None
    if len(found) > MAX_TRUNCATIONS or not all(math.isfinite(t) and 0 < t <= 1 for t in found):
        raise TrainingError(f"--truncations {given}: at most {MAX_TRUNCATIONS}, each above 0 and up to 1")
    return found
