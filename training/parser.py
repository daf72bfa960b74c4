"""Tables of a recipe as frozen dataclasses, every key of them required and none unknown.

Knows the types of the fields that recipes have; knows nothing of ranges.
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from training.data_recipe import AnyDataRecipe, CaptionedRecipe, DataRecipe, SpeechRecipe, TextRecipe
from training.errors import TrainingError
from training.gate import Gate
from training.objective_recipe import OBJECTIVES, ObjectiveRecipe

Spec = TypeVar("Spec")


def parse_table(spec: type[Spec], raw: object, where: str) -> Spec:
    """A dataclass from the nested dict that TOML or JSON gives; the table's name stands before those of its keys.

    Raises:
        TrainingError: a key is missing, unknown or of the wrong type; the message names it.
    """
    if not isinstance(raw, Mapping):
        raise TrainingError(f"{where or 'recipe'}: a table expected")
    hints = get_type_hints(spec)
    prefix = f"{where}." if where else ""
    for key in raw.keys() - hints.keys():
        raise TrainingError(f"unknown key {prefix}{key} (known: {', '.join(hints)})")
    for key in hints:
        if key not in raw:
            raise TrainingError(f"missing key {prefix}{key}")
    return spec(**{key: _value(hint, raw[key], f"{prefix}{key}") for key, hint in hints.items()})


def _value(hint: Any, raw: Any, where: str) -> Any:
    """One value of the declared type; only the types that recipes use are known."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is types.UnionType and where == "finetune":
        return _finetune(raw, where)
    if origin is types.UnionType:
        return _objective(raw, where) if where == "objective" else _data(raw, where)
    if dataclasses.is_dataclass(hint):
        return parse_table(hint if isinstance(hint, type) else type(hint), raw, where)
    if origin is Literal:
        return _literal(arguments, raw, where)
    if origin is tuple:
        return _tuple(arguments, raw, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(arguments[1], raw, where)
    if hint is float and type(raw) is int:
        return float(raw)
    if type(raw) is not hint:
        raise TrainingError(f"{where} must be {hint.__name__}, got {raw!r}")
    return raw


def _objective(raw: Any, where: str) -> ObjectiveRecipe:
    kind = raw.get("kind") if isinstance(raw, Mapping) else None
    if not isinstance(kind, str) or kind not in OBJECTIVES:
        raise TrainingError(f"{where}.kind must be one of {', '.join(OBJECTIVES)}, got {kind!r}")
    return parse_table(OBJECTIVES[kind], raw, where)


def _data(raw: Any, where: str) -> AnyDataRecipe:
    """A table with `kind = "text"` names texts, one without a kind pictures."""
    if isinstance(raw, Mapping) and raw.get("kind") == "captioned":
        return parse_table(CaptionedRecipe, raw, where)
    if isinstance(raw, Mapping) and raw.get("kind") == "speech":
        return parse_table(SpeechRecipe, raw, where)
    if isinstance(raw, Mapping) and "kind" in raw:
        return parse_table(TextRecipe, raw, where)
    return parse_table(DataRecipe, raw, where)


def _finetune(raw: Any, where: str) -> Mapping[str, str] | None:
    """`{from = NAME}`; a plain mapping, because a field can't be called `from`."""
    if raw is None:
        return None
    if not isinstance(raw, Mapping) or raw.keys() != {"from"} or not isinstance(raw["from"], str):
        raise TrainingError(f"{where} must be {{from = NAME}}, the name of a weights folder, got {raw!r}")
    return dict(raw)


def _literal(choices: tuple[Any, ...], raw: Any, where: str) -> Any:
    if raw not in choices:
        raise TrainingError(f"{where} must be one of {', '.join(map(str, choices))}, got {raw!r}")
    return raw


def _tuple(arguments: tuple[Any, ...], raw: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(raw, list | tuple):
        raise TrainingError(f"{where} must be an array, got {raw!r}")
    hints = [arguments[0]] * len(raw) if arguments[-1] is Ellipsis else list(arguments)
    if len(hints) != len(raw):
        raise TrainingError(f"{where} must have {len(hints)} entries, got {len(raw)}")
    return tuple(_value(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(hints, raw, strict=True)))


def _mapping(item: Any, raw: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, Mapping):
        raise TrainingError(f"{where} must be a table, got {raw!r}")
    if item is Any:
        return dict(raw)
    return {key: _gate(value, f"{where}.{key}") for key, value in raw.items()}


def _gate(raw: Any, where: str) -> Gate:
    """`{min = x}` or `{max = x}`; also `{bound, value}`, the form that `Recipe.as_dict` writes."""
    if isinstance(raw, Mapping) and raw.keys() == {"bound", "value"}:
        return parse_table(Gate, raw, where)
    if not isinstance(raw, Mapping) or len(raw) != 1 or next(iter(raw)) not in ("min", "max"):
        raise TrainingError(f"{where} must be {{min = x}} or {{max = x}}, got {raw!r}")
    bound, value = next(iter(raw.items()))
    return Gate(bound, _value(float, value, f"{where}.{bound}"))
