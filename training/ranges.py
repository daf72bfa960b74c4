"""Ranges of numbers, said beside their types: `steps: Positive[int]`.

Knows numbers and dataclasses; knows nothing of what they are for.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, get_type_hints

from training.errors import TrainingError

Number = TypeVar("Number", int, float)


def positive(value: float) -> bool:
    """Above 0."""
    return value > 0


def not_negative(value: float) -> bool:
    """From 0 on."""
    return value >= 0


def below(bound: float) -> Callable[[float], bool]:
    """Less than the bound."""
    return lambda value: value < bound


def at_most(bound: float) -> Callable[[float], bool]:
    """Up to the bound."""
    return lambda value: value <= bound


Positive = Annotated[Number, positive]
NotNegative = Annotated[Number, not_negative]
Share = Annotated[float, not_negative, below(1)]
Seed = Annotated[int, not_negative, below(2**53)]


def check_ranges(spec: Any, where: str = "") -> None:
    """Check all numbers of a dataclass and of those within it; not-a-number is in no range.

    Raises:
        TrainingError: a number is out of its range; the message names it.
    """
    for name, hint in get_type_hints(type(spec), include_extras=True).items():
        value = getattr(spec, name)
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{where}{name}.")
        for rule in getattr(hint, "__metadata__", ()):
            numbers = (value or (-1,)) if isinstance(value, tuple) else (value,)  # none at all: out of any range
            if wrong := [number for number in numbers if not rule(number)]:
                raise TrainingError(f"{where}{name} is out of range: {wrong[0]!r}")
