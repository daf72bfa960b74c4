"""What a grammar may hold: checked before a library sees it, so that no schema takes the worker's time or memory.

Knows JSON and the syntax of regular expressions; knows no tokens. The numbers were measured: within them the slowest
grammar that was found compiles in about a second.
"""

import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from app.engine.jobs import Grammar

MAX_SCHEMA = 1 << 16  # bytes
MAX_DEPTH = 64  # of arrays and objects within each other
MAX_DIGITS = 40  # of an integer
MAX_PATTERN = 2048  # characters of one regular expression
MAX_REPEATED = 4096  # characters of one, its counted repetitions written out
MAX_STRING = 4096  # characters of one that a text must hold: all of it is looked at for each of its tokens
MAX_MULTIPLES = 10_000  # the sum of all multipleOf, decimal points aside: each takes an automaton of so many states
OPTIONS = "x-guidance"  # a schema's own options of the compiler: how whitespace is treated is not for clients to say

# As the compiler's library reads them, so that nothing hides from the limits.
_ESCAPE = r"\\(?:[pPxuU]\{[^}]*\}|.)"
_SET = r"\[\^?(?:\]|-+)?"  # a first bracket and first hyphens are members
_MEMBER = re.compile(  # of a set: one within it, its end, an operator, a range that may end with a bracket, a character
    rf"(?P<set>{_SET})|(?P<end>\])|&&|--|~~|(?:{_ESCAPE}|.)-(?=[^\]-])(?:{_ESCAPE}|.)|{_ESCAPE}|.", re.DOTALL
)
_ATOM = re.compile(
    rf"(?P<escape>{_ESCAPE})|(?P<set>{_SET})"
    r"|(?P<open>\((?:\?(?:P?<[^>]*>|(?P<flags>[a-zA-Z-]*):?))?)|(?P<close>\))"  # a name may hold brackets
    r"|\{(?P<count>[\s\d,]*)\}"  # spaces in a count are no part of it
    r"|(?P<other>.)",
    re.DOTALL,
)


def checked(grammar: Grammar) -> str:
    """The schema, as JSON, or the regular expression that a grammar stands for.

    Raises:
        ValueError: it is no JSON or no schema, or beyond a limit; names what is wrong in one line.
    """
    if grammar.kind == "regex":
        _check_pattern(grammar.text)
        return grammar.text
    return json.dumps(_schema(grammar.text) if grammar.kind == "json_schema" else {"type": "object"})


def size(grammar: Grammar) -> int:
    """Characters of a grammar within the limits, counted repetitions written out; its memory grows with them."""
    if grammar.kind == "regex":
        return max(len(grammar.text), _written_out(grammar.text))
    members = _members(_schema(grammar.text) if grammar.kind == "json_schema" else {})
    patterns = (pattern for _, key, value in members for pattern in _patterns(key, value))
    return len(grammar.text) + sum(map(_written_out, patterns))


def _schema(text: str) -> dict[str, Any]:
    if len(text.encode(errors="replace")) > MAX_SCHEMA:
        raise ValueError(f"larger than {MAX_SCHEMA} bytes")
    schema = _parsed(text)
    if schema is True:  # anything
        return {}
    if not isinstance(schema, dict):
        raise ValueError("no text fits it" if schema is False else "a schema is an object, or true")
    multiples = 0
    for depth, key, value in _members(schema):
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        _check_strings(key, value)
        if key == "multipleOf" and isinstance(value, int | float) and not isinstance(value, bool):
            multiples += _states(value)
    if multiples > MAX_MULTIPLES:
        raise ValueError(f"multipleOf: the sum of all, decimal points aside, is more than {MAX_MULTIPLES}")
    return {key: value for key, value in schema.items() if key != OPTIONS}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_number, parse_float=_number, parse_int=_integer)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error.msg} at position {error.pos}") from None


def _number(text: str) -> float:
    """A finite number; JSON has no other, though Python would read them."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:MAX_DIGITS]} is not a finite number")
    return number


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"an integer of more than {MAX_DIGITS} digits")
    return int(text)


def _members(schema: dict[str, Any]) -> Iterator[tuple[int, str, Any]]:
    """Depth, key and value of all that is in a schema; an element of an array has an empty key."""
    waiting: list[tuple[int, str, Any]] = [(1, "", schema)]
    while waiting:
        depth, key, value = waiting.pop()
        yield depth, key, value
        if isinstance(value, dict):
            waiting.extend((depth + 1, name, member) for name, member in value.items())
        elif isinstance(value, list):
            waiting.extend((depth + 1, "", element) for element in value)


def _check_strings(key: str, value: Any) -> None:
    """Refuse strings that cost more than their length; a property may be called like one of these keywords."""
    for pattern in _patterns(key, value):
        _check_pattern(pattern)
    if key in ("const", "") and isinstance(value, str) and len(value) > MAX_STRING:
        raise ValueError(f"a string of more than {MAX_STRING} characters")


def _patterns(key: str, value: Any) -> list[str]:
    """The regular expressions that a member of a schema holds itself."""
    if key == "pattern" and isinstance(value, str):
        return [value]
    return list(value) if key == "patternProperties" and isinstance(value, dict) else []


def _states(multiple: float) -> int:
    """What a text's digits are divided by: a multiple without its decimal point."""
    _, digits, exponent = Decimal(repr(multiple)).normalize().as_tuple()
    assert isinstance(exponent, int)  # it is finite
    states: int = int("".join(map(str, digits))) * 10 ** max(0, exponent)
    return states


def _check_pattern(pattern: str) -> None:
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"a pattern of more than {MAX_PATTERN} characters")
    _check_flags(pattern)
    if _written_out(pattern) > MAX_REPEATED:
        raise ValueError(f"a pattern whose repetitions come to more than {MAX_REPEATED} characters")


def _check_flags(pattern: str) -> None:
    """Refuse verbose mode, in which spaces and comments hide what is repeated; to switch it off is nothing."""
    for atom in _atoms(pattern):
        if "x" in (atom["flags"] or "").partition("-")[0]:
            place = f"at position {atom.start()} of the expression"
            raise ValueError(f"the flag x (verbose mode) is not supported: {place}")


def _atoms(pattern: str) -> Iterator[re.Match[str]]:
    """The parts of a pattern; of a set of characters its beginning, in place of all of it."""
    position = 0
    while (atom := _ATOM.match(pattern, position)) is not None:
        position = _set_end(pattern, atom.end()) if atom["set"] else atom.end()
        yield atom


def _set_end(pattern: str, start: int) -> int:
    """Where a set ends that has begun before `start`; sets may lie within each other."""
    depth = 1
    for member in _MEMBER.finditer(pattern, start):
        depth += bool(member["set"]) - bool(member["end"])
        if depth == 0:
            return member.end()
    return len(pattern)


def _written_out(pattern: str) -> int:
    """Characters of a pattern whose counted repetitions are written out, each up to its upper bound.

    Whether it is well-formed is for the compiler to say.
    """
    sizes, last = [0], 0  # of the groups that are open, and what a count that follows multiplies
    for atom in _atoms(pattern):
        if atom["open"]:
            sizes.append(0)
            last = 0
        elif atom["close"] and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        elif atom["count"] is not None:
            times = max([1, *map(int, re.findall(r"\d+", atom["count"]))])
            sizes[-1] += last * (times - 1)
            last *= times
        elif atom["other"] not in ("*", "+", "?"):  # these repeat what is there, and a further count repeats that
            last = 1
            sizes[-1] += last
    return sum(sizes)
