"""What an operator says about precision, part by part."""

import re

import pytest

from app.dtypes import Dtypes, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", Dtypes()),
        ("int4", Dtypes("int4")),
        ("auto,smollm2=int4", Dtypes("auto", {"smollm2": "int4"})),
        (" a=bf16 , fp32,b = int8", Dtypes("fp32", {"a": "bf16", "b": "int8"})),
        ("a=int8", Dtypes("auto", {"a": "int8"})),
    ],
)
def test_lists(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is neither a precision (auto, fp32, bf16, int8, int4) nor NAME=PRECISION"),
        ("auto,", "'' is neither"),
        ("fp16", "'fp16' is neither"),
        ("auto,a=q4", "'a=q4' is neither"),
        ("=int4", "'=int4' is neither"),
        ("a=", "'a=' is neither"),
        ("auto,int8", "'int8': a precision of all models was given before"),
        ("a=int8,a=int4", "'a=int4': a precision of a was given before"),
    ],
)
def test_the_wrong_part_is_named(text, said):
    with pytest.raises(ValueError, match="^" + re.escape(said)):
        parse(text)


def test_names_win():
    dtypes = parse("int8,a=bf16")
    assert (dtypes.of("a"), dtypes.of("b")) == ("bf16", "int8")
