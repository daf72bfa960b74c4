"""The flags of `genserve dataset`: what may be asked for, and one line for what may not."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.bench.errors import BadFlag
from app.bench.options import number, positive, service_url, whole

MAX_PER_CLASS, MAX_CONCURRENCY = 1_000_000, 64
MAX_SEED = 2**53 - 1  # the service's
LAYOUTS = ("png", "idx")


@dataclass(frozen=True)
class Options:
    """Which set to make, and where."""

    url: str
    model: str
    per_class: int
    out: Path
    seed: int
    truncation: float | None
    concurrency: int
    layout: str


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags; their values stay strings until `read` looks at them."""
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8000", help="the service (default: %(default)s)")
    add("--model", required=True, metavar="NAME", help="a picture model of the service")
    add("--per-class", default="1000", help="pictures of each class (default: %(default)s)")
    add("--out", required=True, metavar="DIR", help="a new or empty folder, or one with a part of the same set")
    add("--seed", default="0", help="of the first picture; each further one has the next (default: %(default)s)")
    add("--truncation", default=None, help="scales the latents, above 0 to 1: more typical, less diverse pictures")
    add("--concurrency", default="4", help="requests in flight, of up to 64 pictures each (default: %(default)s)")
    add(
        "--format",
        default=LAYOUTS[0],
        help="png: a folder of PNG files a class; idx: the two gzipped IDX files of MNIST (default: %(default)s)",
    )


def read(flags: Mapping[str, object]) -> Options:
    """Flags as argparse gives them, checked.

    Raises:
        BadFlag: the first that is wrong, with what it may be.
    """
    given = {name: str(value) for name, value in flags.items() if isinstance(value, str)}
    return Options(
        url=service_url(given["url"]),
        model=_model(given["model"]),
        per_class=number("--per-class", given["per_class"], whole(MAX_PER_CLASS)),
        out=_folder(given["out"]),
        seed=number("--seed", given["seed"], _seed),
        truncation=number("--truncation", given["truncation"], positive(1)) if "truncation" in given else None,
        concurrency=number("--concurrency", given["concurrency"], whole(MAX_CONCURRENCY)),
        layout=_layout(given["format"]),
    )


def _model(given: str) -> str:
    if not given:
        raise BadFlag("--model '': not the name of a model")
    return given


def _seed(text: str) -> int:
    """a whole number from 0 to 2^53 - 1"""  # noqa: D403, D415  # the end of an error's sentence
    value = int(text)
    if not 0 <= value <= MAX_SEED:
        raise ValueError
    return value


def _folder(given: str) -> Path:
    path = Path(given)
    if not given or (path.exists() and not path.is_dir()):
        raise BadFlag(f"--out {given!r}: not a folder")
    return path


def _layout(given: str) -> str:
    if given not in LAYOUTS:
        raise BadFlag(f"--format {given!r}: not one of {', '.join(LAYOUTS)}")
    return given
