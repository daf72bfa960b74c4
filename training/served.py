"""Measure a model as a running service serves it: `genserve evaluate --url URL --model NAME`.

The pictures come over HTTP, so what is measured is what is served: the service's dtype, its device, its PNGs. The data
and the judge are on this side. Also `python -m training.served`. Exit status: 0 measured, and those gates of the card
that can be measured so are passed; 1 a gate is missed or something is wrong, said in one line.

Free of torch until a measurement begins, because `genserve` declares these flags whatever it is asked to do.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training import wanted
from training.errors import TrainingError

HELP = "measure what a running service serves: distances, precision, recall, class accuracy"
COUNT, MAX_COUNT = 10_000, 100_000


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the command."""
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8000", help="the service (default: %(default)s)")
    add("--model", required=True, metavar="NAME", help="what to measure")
    add("--judge", type=Path, metavar="FOLDER", help="the judge's folder (default: the committed one for the data)")
    add("--data", metavar="FOLDER", help="folder of the data (default: where the Debian package puts it)")
    add("--count", type=int, default=COUNT, help="pictures to ask for (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the first picture (default: %(default)s)")
    add("--threads", type=int, help="CPU threads (default: all)")
    wanted.add_flags(parser)


def run(flags: Mapping[str, Any]) -> int:
    """Measure; the exit status."""
    try:
        _run(argparse.Namespace(**flags))
    except (TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line of `python -m training.served`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="genserve evaluate", description=f"{HELP.capitalize()}.")
    add_flags(parser)
    return run(vars(parser.parse_args(arguments)))


def _run(options: argparse.Namespace) -> None:
    asked = wanted.read(options)
    for flag, least, most in (("count", 1, MAX_COUNT), ("seed", 0, 2**53 - 1 - MAX_COUNT), ("threads", 1, 1024)):
        value = getattr(options, flag)
        if value is not None and not least <= value <= most:
            raise TrainingError(f"--{flag} {value}: from {least} to {most:,}")
    from training import remote  # and with it torch

    remote.evaluate(options, asked)


if __name__ == "__main__":
    sys.exit(main())
