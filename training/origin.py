"""The model that a training starts from: its weights and its tokenizer, from a weights folder.

Knows folders and recipes; knows nothing of the loop. The folder is only read.
"""

from collections.abc import Mapping
from typing import Any

from models import checkpoint
from models.checkpoint import Checkpoint
from models.errors import CheckpointError
from training.errors import TrainingError
from training.recipe import ModelRecipe, Recipe
from training.weights import find_folder
from training.writer import Writer, as_writer


def load_origin(recipe: Recipe) -> Writer | None:
    """The language model that the recipe's `[finetune]` names; None when it names none.

    Raises:
        TrainingError: the folder is missing or broken, or its network is another than the recipe's.
    """
    if not recipe.origin:
        return None
    folder = find_folder(recipe.origin)
    try:
        loaded = checkpoint.load(folder)
    except CheckpointError as error:
        raise TrainingError(f"finetune.from: {error}") from error
    _check_same(recipe.origin, loaded, recipe.model)
    return as_writer(folder, loaded)


def _check_same(name: str, loaded: Checkpoint, wanted: ModelRecipe) -> None:
    architecture, config = loaded.config.architecture, loaded.config.config
    if architecture != wanted.architecture:
        raise TrainingError(f"finetune.from: {name} is a {architecture}, model.architecture {wanted.architecture}")
    if differing := [f"model.config.{key} is {mine}, {name}'s {its}" for key, mine, its in _changes(wanted, config)]:
        raise TrainingError(f"finetune.from: {'; '.join(differing)}")


def _changes(wanted: ModelRecipe, config: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Keys whose values differ, with both."""
    keys = sorted(wanted.config.keys() | config.keys())
    both = [(key, wanted.config.get(key, "not given"), config.get(key, "not given")) for key in keys]
    return [(key, mine, its) for key, mine, its in both if mine != its]
