"""The flags of `genserve bench`: what may be asked for, and one line for what may not."""

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from app.bench.errors import BadFlag

MAX_CLIENTS, MAX_SECONDS, MAX_RATE, MAX_PICTURES, MAX_TOKENS = 10_000, 600.0, 100.0, 64, 1_000_000
CLIENTS = ("auto", "wrk", "python")

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What to measure; `rates` are shares of a model's best closed-loop throughput."""

    url: str
    models: tuple[str, ...]
    clients: tuple[int, ...]
    seconds: float
    rates: tuple[float, ...]
    n: int
    max_tokens: int
    client: str
    json: Path | None


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags; their values stay strings until `read` looks at them."""
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8000", help="the service (default: %(default)s)")
    add("--model", nargs="+", action="extend", default=[], metavar="NAME", help="what to measure (default: all models)")
    add("--clients", default="1,8,32,64", help="closed loops with so many clients each (default: %(default)s)")
    add("--seconds", default="5", help="length of each load (default: %(default)s)")
    add(
        "--rates",
        default="0.5,0.8,1.2",
        help="open loops of pictures, as shares of the best closed loop's throughput; none: '' (default: %(default)s)",
    )
    add("--n", default="1", help="pictures a request (default: %(default)s)")
    add("--max-tokens", default="64", help="tokens a text at most (default: %(default)s)")
    add("--client", default="auto", help="sender of closed loops of pictures: auto (wrk if it is there), wrk, python")
    add("--json", default=None, metavar="FILE", help="write the results here too")


def read(flags: Mapping[str, object]) -> Options:
    """Flags as argparse gives them, checked.

    Raises:
        BadFlag: the first that is wrong, with what it may be.
    """
    given = {name: str(value) for name, value in flags.items() if isinstance(value, str)}
    names = flags.get("model")
    return Options(
        url=service_url(given["url"]),
        models=tuple(map(str, names)) if isinstance(names, list) else (),
        clients=_several("--clients", given["clients"], whole(MAX_CLIENTS)),
        seconds=number("--seconds", given["seconds"], positive(MAX_SECONDS)),
        rates=_several("--rates", given["rates"], positive(MAX_RATE)) if given["rates"].strip() else (),
        n=number("--n", given["n"], whole(MAX_PICTURES)),
        max_tokens=number("--max-tokens", given["max_tokens"], whole(MAX_TOKENS)),
        client=_choice(given["client"]),
        json=_file(given["json"]) if "json" in given else None,
    )


def service_url(given: str) -> str:
    """Scheme, host and port, perhaps a path; without a slash at the end."""
    try:
        parts = urlsplit(given)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or given != "".join(given.split()):
        raise BadFlag(f"--url {given!r}: not the address of a service, such as http://127.0.0.1:8000")
    if parts.query or parts.fragment or parts.username is not None:
        raise BadFlag(f"--url {given!r}: only scheme, host, port and path, please")
    return given.rstrip("/?#")


def whole(limit: int) -> Callable[[str], int]:
    """A converter that says in its name what it takes."""

    def convert(text: str) -> int:
        value = int(text)
        if not 1 <= value <= limit:
            raise ValueError
        return value

    convert.__doc__ = f"a whole number from 1 to {limit:,}"
    return convert


def positive(limit: float) -> Callable[[str], float]:
    """The same for numbers that need not be whole."""

    def convert(text: str) -> float:
        value = float(text)
        if not (math.isfinite(value) and 0 < value <= limit):
            raise ValueError
        return value

    convert.__doc__ = f"a number above 0, up to {limit:g}"
    return convert


def number(flag: str, text: str, convert: Callable[[str], T]) -> T:
    """A flag's value.

    Raises:
        BadFlag: it is none that `convert` takes.
    """
    try:
        return convert(text)
    except ValueError:
        raise BadFlag(f"{flag} {text!r}: not {convert.__doc__}") from None


def _several(flag: str, text: str, convert: Callable[[str], T]) -> tuple[T, ...]:
    """Numbers with commas between them."""
    try:
        return tuple(convert(part.strip()) for part in text.split(","))
    except ValueError:
        raise BadFlag(f"{flag} {text!r}: not {convert.__doc__}, or several with commas between them") from None


def _choice(given: str) -> str:
    if given not in CLIENTS:
        raise BadFlag(f"--client {given!r}: not one of {', '.join(CLIENTS)}")
    return given


def _file(given: str) -> Path:
    """Known to be writable as far as can be said before: nobody wants to hear of it at the end."""
    path = Path(given)
    if not given or path.is_dir() or not path.absolute().parent.is_dir():
        raise BadFlag(f"--json {given!r}: not a file in a folder that exists")
    return path
