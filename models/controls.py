"""Names for single numbers of a flat latent: the object `controls` of config.json.

Knows fields and their bounds; knows nothing of files, networks or requests.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

MAX_CONTROLS = 64
MAX_DESCRIPTION = 500
MAX_VALUE = 1e6  # either way
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
FIELDS = {"index", "min", "max", "description"}


def checked(raw: object) -> dict[str, dict[str, Any]]:
    """The same object, each control with a description.

    Raises:
        ValueError: a control has no proper name, lacks a field, has one too many, or one out of bounds; or two are of
            the same number.
    """
    if not isinstance(raw, dict) or len(raw) > MAX_CONTROLS:
        raise ValueError(f"controls: an object of at most {MAX_CONTROLS} entries expected")
    found = {name: _control(name, entry) for name, entry in raw.items()}
    if len({entry["index"] for entry in found.values()}) < len(found):
        raise ValueError("controls: two of them have the same index")
    return found


def _control(name: str, raw: object) -> dict[str, Any]:
    if not NAME.fullmatch(name):
        raise ValueError(f"controls: the name {name[:64]!r} does not match {NAME.pattern}")
    if not isinstance(raw, dict) or not FIELDS - {"description"} <= raw.keys() <= FIELDS:
        raise ValueError(f"controls.{name}: index, min and max expected, perhaps a description, and nothing else")
    control = {"index": raw["index"], "min": raw["min"], "max": raw["max"], "description": raw.get("description", "")}
    index, text = control["index"], control["description"]
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise ValueError(f"controls.{name}: index must be a whole number from 0 on")
    if not _is_number(control["min"]) or not _is_number(control["max"]) or control["min"] >= control["max"]:
        raise ValueError(f"controls.{name}: min must be below max, both at most {MAX_VALUE:g} either way")
    if not isinstance(text, str) or len(text) > MAX_DESCRIPTION:
        raise ValueError(f"controls.{name}: description must be a text of at most {MAX_DESCRIPTION} characters")
    return control


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_VALUE  # NaN is not


def check_latent(controls: Mapping[str, Mapping[str, Any]], latent_shape: Sequence[int]) -> None:
    """Refuse controls of what a latent of this shape has not got.

    Raises:
        ValueError: the latent is not flat, or too short.
    """
    for name, control in controls.items():
        if len(latent_shape) != 1 or control["index"] >= latent_shape[0]:
            raise ValueError(f"controls.{name}: index {control['index']} of a latent of shape {list(latent_shape)}")


def vouched(controls: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """What a digest covers: all but the descriptions, which change no output."""
    return {name: [control["index"], control["min"], control["max"]] for name, control in controls.items()}
