"""One table of several generators, from their cards: `python -m training.comparison FOLDER...`.

A folder is a weights folder, or that of a finished run, whose candidate is taken even where it missed a gate. Every
number is what `training.evaluate` wrote; nothing is measured here. Exit status: 0, or 1 with one line that says what is
wrong.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.config import ModelConfig, read_config
from models.errors import CheckpointError
from models.files import CONFIG_FILE
from training.errors import TrainingError
from training.weights import networks

COLUMNS: Mapping[str, str] = {
    "fd_clf": "FD-clf",
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
    "diversity": "diversity",
    "class_accuracy": "class accuracy",
    "worst_class_accuracy": "worst class",
}


def find(folder: Path) -> Path:
    """The weights folder that a folder is, or that the run in it has as its candidate.

    Raises:
        TrainingError: it is neither.
    """
    places = [folder, *sorted((folder / "candidate").glob("*"))]
    found = [place for place in places if (place / CONFIG_FILE).is_file()]
    if not found:
        raise TrainingError(f"{folder}: neither a weights folder nor a finished run")
    return found[0]


def row(name: str, config: ModelConfig) -> list[str]:
    """One generator's cells.

    Raises:
        TrainingError: its card holds no metrics of a generator.
    """
    card: Mapping[str, Any] = config.card
    metrics = card.get("metrics", {})
    if "fd_clf" not in metrics:
        raise TrainingError(f"{name}: its card holds no metrics of a picture generator")
    minutes = f"{card['seconds'] / 60:.0f}" if "seconds" in card else ""
    cells = [f"{metrics[key]:.3g}" if key in metrics else "" for key in COLUMNS]
    return [f"`{name}`", f"{card.get('steps', 0):,}", minutes, *cells]


def table(folders: Sequence[Path]) -> str:
    """Markdown: a line a generator, in the order given.

    Raises:
        TrainingError: a folder holds no measured generator.
        CheckpointError: a configuration can't be read.
    """
    places = [find(folder) for folder in folders]
    lines = [row(place.name, read_config(place, networks())) for place in places]
    head = ["generator", "steps", "minutes", *COLUMNS.values()]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.comparison", description="Compare measured generators.")
    parser.add_argument("folders", nargs="+", type=Path, help="weights folders, or folders of finished runs")
    try:
        print(table(parser.parse_args(arguments).folders))
    except (TrainingError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
