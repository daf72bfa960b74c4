"""Fields of somebody else's description of a network, checked one by one.

A field that would change the output in a way that our networks do not know is refused by its name.
"""

from collections.abc import Mapping
from typing import Any

from training.errors import TrainingError


class Fields:
    """The fields of a config.json."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Fields by name."""
        self._values = values

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._values.get(name) is not None

    def is_(self, name: str, value: object) -> bool:
        """Whether the field has this value."""
        return bool(self._values.get(name) == value)

    def integer(self, name: str, default: int | None = None) -> int:
        """A positive whole number.

        Raises:
            TrainingError: it is missing without a default, or something else.
        """
        value = self._get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 1 << 40:
            raise TrainingError(f"{name}: {value!r} is not a positive whole number")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number above zero.

        Raises:
            TrainingError: it is missing without a default, or something else.
        """
        value = self._get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e30:
            raise TrainingError(f"{name}: {value!r} is not a positive number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false.

        Raises:
            TrainingError: it is something else.
        """
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise TrainingError(f"{name}: {value!r} is neither true nor false")
        return value

    def group(self, name: str) -> "Fields":
        """Fields within a field; none when it is missing.

        Raises:
            TrainingError: it is no object.
        """
        value = self._get(name, {})
        if not isinstance(value, dict):
            raise TrainingError(f"{name}: {value!r} is not an object")
        return Fields(value)

    def only(self, name: str, *allowed: object) -> None:
        """Refuse a field unless it is missing, null or one of these values.

        Raises:
            TrainingError: it is another value.
        """
        value = self._values.get(name)
        if value is not None and not any(value is known or value == known for known in allowed):
            known = " or ".join(map(repr, allowed)) or "no such field"
            raise TrainingError(f"{name}: {_short(value)} is not supported ({known} is)")

    def _get(self, name: str, default: object) -> Any:
        value = self._values.get(name)
        value = default if value is None else value
        if value is None:
            raise TrainingError(f"{name} is missing")
        return value


def _short(value: object) -> str:
    said = repr(value)
    return said if len(said) < 200 else f"{said[:200]}..."
