"""What the card of a model with controls says about them; measures nothing itself."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from models.config import ModelConfig
from models.controls import MAX_DESCRIPTION
from training.errors import TrainingError

GRID_FILE = "controls.png"

MEANINGS = {
    "category_purity": "share of generated pictures in which the judge sees the class that their category mostly shows",
    "class_information": "nats that a category tells of the class that the judge sees (10 of each: at most 2.303)",
    "category_information": "nats that a picture tells of its category, at least (10 categories: at most 2.303)",
    "code_information": "nats that it tells of all its codes together, at least",
    "least_code_correlation": "of a code with what is read of it in pictures, for the code that is read worst",
}


def described(config: ModelConfig, sayings: Sequence[str]) -> ModelConfig:
    """The same configuration, its controls described by sayings such as `code_0=dark to light`.

    What a code means is found by each training anew, so descriptions belong to weights, not to recipes.

    Raises:
        TrainingError: a saying is of no control of the model, or too long.
    """
    controls = {name: dict(control) for name, control in config.controls.items()}
    for saying in sayings:
        name, _, text = saying.partition("=")
        if name not in controls or len(text) > MAX_DESCRIPTION:
            known = ", ".join(controls) or "none"
            raise TrainingError(f"--describe {saying}: CONTROL=TEXT of a control of the model ({known})")
        controls[name]["description"] = text
    return dataclasses.replace(config, controls=controls)


def section(config: ModelConfig) -> str:
    """The controls, what they do, how well they are read, and what was found in the place of labels."""
    how: Mapping[str, Any] = config.card.get("evaluation", {})
    parts = [f"![Traversals]({GRID_FILE})\n\n{_grid(config)}", _controls(config, how.get("code_correlations", {}))]
    if how.get("categories"):
        parts.append(_categories(config, how["categories"]))
    return "\n\n".join(parts)


def _grid(config: ModelConfig) -> str:
    return (
        "Each control from its least to its greatest value, a block of rows for each in turn. A row is one category "
        "and one latent, that of row i the i-th of seed 0, none left out. `POST /v1/images/generate` takes them by "
        f'name, such as `"controls": {{"{next(iter(config.controls))}": 1.5}}`. Nobody told the training what they '
        "should mean; that pictures show them was measured by a reader that was taught on pictures of the finished "
        "generator alone."
    )


def _controls(config: ModelConfig, correlations: Mapping[str, float]) -> str:
    rows = ["| control | from | to | correlation | what it does |", "|---|---|---|---|---|"]
    for name, control in config.controls.items():
        read = f"{correlations[name]:.2f}" if name in correlations else ""
        rows.append(f"| `{name}` | {control['min']:g} | {control['max']:g} | {read} | {control['description']} |")
    return "\n".join(rows)


def _categories(config: ModelConfig, found: list[Mapping[str, Any]]) -> str:
    rows = ["| label | class that the judge sees most often | share |", "|---|---|---|"]
    rows += [
        f"| {label} | {entry['class']} | {entry['share']:.1%} |"
        for label, entry in zip(config.labels, found, strict=True)
    ]
    return "The labels are categories that the training found without any:\n\n" + "\n".join(rows)
