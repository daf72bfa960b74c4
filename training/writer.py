"""A language model with its tokenizer, from a weights folder: what is measured is what is served."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import nn

from models import checkpoint
from models.checkpoint import Checkpoint
from models.errors import CheckpointError
from models.files import TOKENIZER_FILE
from training.errors import TrainingError


@dataclass(frozen=True)
class Writer:
    """A trained network, the tokenizer that it was trained with, and what its card says of it and of its data."""

    name: str
    network: nn.Module
    tokenizer: Tokenizer
    digest: str
    training_data: dict[str, Any]
    description: str


def load_writer(folder: Path) -> Writer:
    """Load and verify a folder.

    Raises:
        TrainingError: the folder is missing or broken, or has no tokenizer.
    """
    try:
        return as_writer(folder, checkpoint.load(folder))
    except CheckpointError as error:
        raise TrainingError(f"the language model can't be loaded: {error} (a language recipe trains one)") from error


def as_writer(folder: Path, loaded: Checkpoint) -> Writer:
    """A loaded folder with its tokenizer, whose sha256 `checkpoint.load` has checked.

    Raises:
        TrainingError: the folder has no tokenizer, or one that does not fit the network.
    """
    if loaded.config.tokenizer is None:
        raise TrainingError(f"{folder}: has no {TOKENIZER_FILE}, so it can read no texts")
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    except Exception as error:  # the package raises nothing narrower
        raise TrainingError(f"{folder / TOKENIZER_FILE}: unreadable: {error}") from error
    tokenizer.encode_special_tokens = True
    card = loaded.config.card
    data, said = dict(card.get("training_data", {})), str(card.get("description", ""))
    return Writer(loaded.name, loaded.model, tokenizer, loaded.config.digest[:16], data, said)
