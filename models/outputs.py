"""What the tokens of a sequence model stand for: the object `output` of its config.json. Without one they are text.

Knows fields and their bounds; knows nothing of files, networks or requests.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
MAX_CHARACTERS = 1024  # letters and signs of a transcript
MAX_TOKENS = 1 << 16  # of a picture or its caption
MAX_ID = 1 << 31
MAX_RATE = 192_000  # samples a second
ENCODINGS = ("mu-law",)


def _integer(least: int, most: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_name(value: object) -> bool:
    return isinstance(value, str) and MODEL_NAME.fullmatch(value) is not None


def _are_characters(value: object) -> bool:
    """Letters and signs, each once, in small letters: a transcript is brought to these before it is read."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_CHARACTERS
        and len(set(value)) == len(value)
        and value == value.lower()
    )


# By kind, the fields that there have to be, and what each may hold.
KINDS: Mapping[str, Mapping[str, Callable[[object], bool]]] = {
    "image": {
        "decoder": _is_name,
        "tokens": _integer(1, MAX_TOKENS),
        "prompt_tokens": _integer(1, MAX_TOKENS),
        "pad_token_id": _integer(0, MAX_ID),
    },
    "audio": {
        "sample_rate": _integer(1, MAX_RATE),
        "encoding": lambda value: value in ENCODINGS,
        "characters": _are_characters,
        "samples_per_character": _integer(1, MAX_RATE),
        "start_token_id": _integer(0, MAX_ID),
    },
}
# What every kind may say: how tokens are drawn when a request does not say.
OPTIONAL: Mapping[str, Callable[[object], bool]] = {
    "temperature": lambda value: isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100,
}


def checked(raw: object) -> dict[str, Any]:
    """The same object.

    Raises:
        ValueError: it is of no known kind, lacks a field, has one too many, or one out of bounds.
    """
    kind = raw.get("kind") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f'output: an object with a "kind" of {", ".join(KINDS)} expected')
    fields = KINDS[kind]
    for name in sorted(raw.keys() - fields.keys() - OPTIONAL.keys() - {"kind"}, key=str):
        raise ValueError(f"output: unknown field {name!r:.100}")
    for name, fits in {**fields, **OPTIONAL}.items():
        if name not in raw and name in fields:
            raise ValueError(f"output: {name} is missing")
        if name in raw and not fits(raw[name]):
            raise ValueError(f"output: {name} is out of bounds: {raw[name]!r:.100}")
    return raw
