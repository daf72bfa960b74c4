"""The error tree is what its docstring draws, and what the documentation promises."""

import re
from pathlib import Path

import pytest

from app import errors
from app.errors import GenserveError

ROOT = Path(__file__).parents[2]


def tree(cls=GenserveError, depth=0):
    yield cls, depth
    for child in cls.__subclasses__():
        yield from tree(child, depth + 1)


CLASSES = [cls for cls, _ in tree()]
LEAVES = [cls for cls in CLASSES if not cls.__subclasses__()]


def test_docstring_draws_the_tree():
    """Names, nesting, order, and for each line that gives them, status and code."""
    drawn = []
    for line in errors.__doc__.splitlines():
        if match := re.match(r"^([│├└─ ]*)(\w+)(?:\s+(\d{3})(?:\s+(\w+))?)?", line):
            prefix, name, status, code = match.groups()
            if isinstance(getattr(errors, name, None), type):
                drawn.append((name, len(prefix) // 4, status, code))
    classes = list(tree())
    assert [(name, depth) for name, depth, _, _ in drawn] == [(cls.__name__, depth) for cls, depth in classes]
    for (name, _, status, code), (cls, _) in zip(drawn, classes, strict=True):
        assert status in (None, str(cls.status)), name
        assert code in (None, cls.code), name
        if cls in LEAVES:
            assert (status, code) == (str(cls.status), cls.code), f"{name} is drawn without its status or code"


def test_codes_are_unique_and_stable_in_form():
    codes = [cls.code for cls in CLASSES]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)
    assert len({cls.title for cls in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_keeps_what_it_was_told(cls):
    error = cls("what happened", field="n", retry_after=1.5)
    assert (error.detail, error.field, error.retry_after) == ("what happened", "n", 1.5)
    assert str(error) == "what happened"
    assert 400 <= error.status < 600


@pytest.mark.parametrize("cls", LEAVES, ids=lambda cls: cls.__name__)
def test_every_code_is_documented(cls):
    documentation = (ROOT / "docs/api.md").read_text()
    rows = [line for line in documentation.splitlines() if f"`{cls.code}`" in line]
    assert any(str(cls.status) in row for row in rows), f"docs/api.md has no row with `{cls.code}` and {cls.status}"
