"""A recipe: one TOML file that says everything about a run, read into frozen dataclasses.

Knows names, types and ranges; knows nothing of networks, files of data, or the loop. Every key is required, so that a
recipe reads as the full record of a run; an unknown key is an error, so that a misspelt one can't be ignored.
"""

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from training.data_recipe import AnyDataRecipe, CaptionedRecipe, SpeechRecipe, TextRecipe
from training.errors import TrainingError
from training.gate import Gate
from training.objective_recipe import AudioRecipe, LanguageRecipe, ObjectiveRecipe, TextToImageRecipe, VqRecipe
from training.parser import parse_table
from training.ranges import NotNegative, Positive, Seed, Share, check_ranges


@dataclass(frozen=True)
class ModelRecipe:
    """Which network: a key of `models.LATENT_MODELS` (or the judge's), and its constructor's keyword arguments."""

    architecture: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Every:
    """Steps between two lines of metrics, two evaluations, two snapshots."""

    log: Positive[int]
    evaluate: Positive[int]
    snapshot: Positive[int]


@dataclass(frozen=True)
class GuardRecipe:
    """Bounds of the guards: see `training.guards`."""

    max_rollbacks: NotNegative[int]
    min_class_share: Share
    collapse_patience: Positive[int]


@dataclass(frozen=True)
class Recipe:
    """Everything about a run.

    Attributes:
        name: of the run and of its folder under `runs/`.
        description: one sentence for the model card.
        license: of the weights.
        export: the weights folder that is written when every gate is passed.
        seed: of the weights' initialisation, of the shuffling and of the noise.
        steps: optimiser steps; the learning rate falls to zero over them by a cosine.
        precision: "bf16" (autocast) or "fp32".
        threads: CPU threads of this process.
        device: "auto" (CUDA when present), "cpu" or "cuda".
        gates: metric name -> bound.
        finetune: `{"from": NAME}`, the weights folder that the training starts from; None or the name "" for fresh
            weights. The one table that may be left out.
    """

    name: str
    description: str
    license: str
    export: str
    seed: Seed
    steps: Positive[int]
    batch_size: Positive[int]
    learning_rate: Positive[float]
    ema_decay: Share
    precision: Literal["bf16", "fp32"]
    threads: Positive[int]
    device: Literal["auto", "cpu", "cuda"]
    data: AnyDataRecipe
    model: ModelRecipe
    objective: ObjectiveRecipe
    every: Every
    guards: GuardRecipe
    gates: Mapping[str, Gate]
    finetune: Mapping[str, str] | None

    @property
    def origin(self) -> str:
        """The weights folder that the training starts from; "" for fresh weights."""
        return self.finetune["from"] if self.finetune else ""

    def as_dict(self) -> dict[str, Any]:
        """Plain nested dicts and lists, as JSON would hold them."""
        return dataclasses.asdict(self)


def read_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: of a TOML file.
        changes: such as `objective.loss = "hinge"`: each replaces the value of a key of the file.

    Raises:
        TrainingError: the file is missing or is not TOML, or a change is not; a key is missing, unknown, of the wrong
            type or out of range.
    """
    try:
        raw = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise TrainingError(f"{path}: no such recipe") from None
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: not readable as TOML: {error}") from error
    for change in changes:
        _change(raw, change)
    try:
        return parse_recipe(raw)
    except TrainingError as error:
        raise TrainingError(f"{path}: {error}") from None


def _change(raw: dict[str, Any], change: str) -> None:
    """Replace one key, which has to be there already."""
    name, _, value = change.partition("=")
    *tables, key = name.strip().split(".")
    table: Any = raw
    for part in tables:
        table = table.get(part) if isinstance(table, dict) else None
    if not isinstance(table, dict) or key not in table:
        raise TrainingError(f"--set {change}: the recipe has no key {name.strip()}")
    try:
        table[key] = tomllib.loads(f"value = {value}")["value"]
    except ValueError as error:
        raise TrainingError(f"--set {change}: the value is not TOML: {error}") from error


def parse_recipe(raw: Mapping[str, Any]) -> Recipe:
    """A recipe from the nested dict that TOML or JSON gives.

    Raises:
        TrainingError: a key is missing, unknown, of the wrong type or out of range; the message names it.
    """
    recipe = parse_table(Recipe, {"finetune": None, **raw}, "")
    _check_kinds(recipe)
    check_ranges(recipe)
    _check_frames(recipe.data)
    return recipe


def _check_kinds(recipe: Recipe) -> None:
    """Refuse data that the objective can't read, and an origin that it can't start from."""
    data, objective = recipe.data, recipe.objective
    if recipe.origin and not isinstance(objective, LanguageRecipe):
        raise TrainingError('finetune goes with objective.kind = "language" alone')
    if isinstance(objective, LanguageRecipe) != isinstance(data, TextRecipe):
        raise TrainingError('objective.kind = "language" and data.kind = "text" go together')
    if isinstance(objective, VqRecipe | TextToImageRecipe) != isinstance(data, CaptionedRecipe):
        raise TrainingError('data.kind = "captioned" goes with objective.kind = "vq" or "text-to-image" alone')
    if isinstance(objective, AudioRecipe) != isinstance(data, SpeechRecipe):
        raise TrainingError('objective.kind = "audio" and data.kind = "speech" go together')


def _check_frames(data: AnyDataRecipe) -> None:
    """A window over speech is whole frames."""
    if isinstance(data, SpeechRecipe) and data.window % data.hop:
        raise TrainingError(f"data.window is out of range: {data.window!r}")
