"""Weights folders by name, those of judges among them, and which architectures may stand in them."""

from pathlib import Path

from torch import nn

from models.architecture import served
from models.files import CONFIG_FILE
from training.errors import TrainingError
from training.judge import JUDGES


def networks() -> dict[str, type[nn.Module]]:
    """The architectures that can be measured: those that can be served, and judges."""
    return {**served(), **JUDGES}


def find_folder(name: str) -> Path:
    """The folder that a name stands for.

    Raises:
        TrainingError: there is none.
    """
    places = [Path("weights") / name, Path("training/judges") / name, Path(name)]
    for place in places:
        if (place / CONFIG_FILE).is_file():
            return place
    raise TrainingError(f"{name}: no weights folder (looked for {', '.join(str(p / CONFIG_FILE) for p in places)})")
