"""Numbers of a latent that a request sets by name: what a generator found to be worth a name.

Knows what a model calls its controls; draws nothing and submits nothing.
"""

from collections.abc import Mapping
from typing import Any

from app.engine.jobs import Latents, ModelInfo
from app.errors import InvalidField


def steer(z: Latents, asked: Mapping[str, float], info: ModelInfo) -> dict[str, Any]:
    """Set the controls that were asked for in all latents [n, dim], in place; what the story tells of it.

    Raises:
        InvalidField: the model has no controls, or none of that name, or the value is outside its range.
    """
    for name, value in asked.items():
        control = _control(name, info)
        if not control["min"] <= value <= control["max"]:
            said = f"controls.{name}: {value:g} is not from {control['min']:g} to {control['max']:g}"
            raise InvalidField(said, field=f"controls.{name}")
        z[:, control["index"]] = value
    return {"controls": dict(asked)} if asked else {}


def _control(name: str, info: ModelInfo) -> Mapping[str, Any]:
    if not info.controls:
        raise InvalidField(f"controls: {info.name} has none", field="controls")
    if name not in info.controls:
        known = ", ".join(info.controls)
        raise InvalidField(f"controls.{name}: {info.name} has {known}", field=f"controls.{name}")
    return info.controls[name]
