"""Schemas and patterns that would cost too much are refused by name; the rest goes through unchanged."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.jobs import Grammar
from app.worker import grammar_limits as limits
from app.worker.grammar_limits import checked


def schema(value):
    return checked(Grammar("json_schema", value if isinstance(value, str) else json.dumps(value)))


def nested(depth):
    return '{"items":' * (depth - 1) + "{}" + "}" * (depth - 1)


def test_what_is_within_the_limits_goes_through():
    wanted = {"type": "object", "properties": {"b": {"enum": ["é", 1.5, None]}, "a": {"multipleOf": 0.01}}}
    assert json.loads(schema(wanted)) == wanted
    assert list(json.loads(schema(wanted))["properties"]) == ["b", "a"]
    assert json.loads(schema("true")) == {}
    assert json.loads(checked(Grammar("json_object"))) == {"type": "object"}
    assert checked(Grammar("regex", "a{3}|[{]b")) == "a{3}|[{]b"


def test_a_schema_has_no_say_in_how_it_is_compiled():
    wanted = {"x-guidance": {"whitespace_pattern": " +", "lenient": True}, "type": "array"}
    assert json.loads(schema(wanted)) == {"type": "array"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON: Expecting value at position 0"),
        ('{"type":', "no JSON: Expecting value at position 8"),
        ("3", "a schema is an object, or true"),
        ("[]", "a schema is an object, or true"),
        ("false", "no text fits it"),
        ('{"minimum": NaN}', "NaN is not a finite number"),
        ('{"minimum": 1e999}', "1e999 is not a finite number"),
        ('{"minimum": ' + "1" * 5000 + "}", "an integer of more than 40 digits"),
        ('{"title": "' + "x" * limits.MAX_SCHEMA + '"}', "larger than 65536 bytes"),
        (nested(limits.MAX_DEPTH + 1), "nested more than 64 deep"),
        (nested(6000), "nested more than 64 deep"),
        ('{"const": ' + "[" * 64 + "]" * 64 + "}", "nested more than 64 deep"),
        (json.dumps({"const": "x" * 4097}), "a string of more than 4096 characters"),
        (json.dumps({"enum": ["x", "x" * 4097]}), "a string of more than 4096 characters"),
        ('{"multipleOf": 1000003}', "multipleOf"),
        ('{"multipleOf": 1e300}', "multipleOf"),
        ('{"items": [{"multipleOf": 6000}, {"multipleOf": 0.6001}]}', "multipleOf"),
        (json.dumps({"pattern": "x" * 2049}), "a pattern of more than 2048 characters"),
        (json.dumps({"patternProperties": {"a{9999}": {}}}), "a pattern whose repetitions"),
        (json.dumps({"pattern": "(a{ 90 }){90 }"}), "a pattern whose repetitions"),
        (json.dumps({"pattern": "^b(?x)a{ 9 }"}), r"the flag x \(verbose mode\) is not supported: at position 2"),
        (json.dumps({"patternProperties": {"(?i)(?x: a)": {}}}), r"the flag x \(verbose mode\)"),
    ],
)
def test_refused_by_name(text, reason):
    with pytest.raises(ValueError, match=reason) as refused:
        schema(text)
    assert len(str(refused.value)) < 120


def test_the_limits_themselves_are_allowed():
    for text in (nested(limits.MAX_DEPTH), '{"multipleOf": 10000}', json.dumps({"const": "x" * 4096})):
        assert json.loads(schema(text)) == json.loads(text)


def test_a_property_may_be_called_like_a_keyword():
    wanted = {"properties": {"pattern": {"type": "string"}, "multipleOf": {"multipleOf": True}}}
    assert json.loads(schema(wanted)) == wanted


@pytest.mark.parametrize(
    "pattern",
    [
        *("a{4097}", "a{1,4097}", "(a{100}){100}", "((ab){3}){700}", "(?:[a-z]\\d){2049}", "(?P<n>(x|yz){2}){1000}"),
        *("a{ 4097}", "a{4097 }", "a{\t1 , 4097\u2003}", "((a{ 90 }){90 }){ 90}"),  # spaces
        *("(?P<n[>(a{90}){90})]", "(?<n.[>(a{90}){90})]"),  # names that hold brackets
        *("(a{90}[b[])]]){90}", "([[a][])]]b{90}){90}", "(a{90}[&&-[])]]){90}"),  # sets within sets
        *("(a{90}[+-[)]{90}){90}", "([\\x{2b}-[](a{90})]){90}", "[-](a{90}){90}[]]"),  # and what is none
    ],
)
def test_repetitions_multiply(pattern):
    with pytest.raises(ValueError, match="repetitions come to more than 4096"):
        checked(Grammar("regex", pattern))


@pytest.mark.parametrize(
    "pattern",
    [
        "a{4096}",
        "a{1,2}" * 200,
        "[a{9999}]",
        r"a\{9999}",
        "[]{9999}]",
        "(a|b)*c+d?",
        r"\p{Lu}{4096}",
        "a{,9}",
        "[a[]{9999}]]",
        r"\u{9999}",
    ],
)
def test_what_looks_like_many_repetitions_and_is_not(pattern):
    assert checked(Grammar("regex", pattern)) == pattern


@pytest.mark.parametrize("flags", ["(?x)", "(?x:", "(?ix)", "(?xs-i)", "a(?ixs:", "[x](?x)", "[[x]](?x)", "(?<a[>(?x)"])
def test_verbose_mode_is_refused_by_name(flags):
    with pytest.raises(
        ValueError, match=r"the flag x \(verbose mode\) is not supported: at position \d+ of the expres"
    ):
        checked(Grammar("regex", f"{flags}((a{{ 900 }}){{ 900 }}){{ 900 }}"))


@pytest.mark.parametrize(
    "pattern", ["(?i-x)a", "(?-x:a)", r"\(?x", "[(?x)]", "[[(?x)]]", "(?i)x", "(?<x>x)", "(?:x)", "(x)"]
)
def test_what_looks_like_verbose_mode_and_is_not(pattern):
    assert checked(Grammar("regex", pattern)) == pattern


def test_the_size_of_a_grammar_has_its_repetitions_written_out():
    assert limits.size(Grammar("regex", "(a{ 40 }b){50}")) == 41 * 50
    assert limits.size(Grammar("regex", "[a-z]{2}")) == 8  # what it takes as text, at least
    assert limits.size(Grammar("json_object")) == 0
    text = json.dumps({"items": [{"pattern": "a{1000}"}, {"patternProperties": {"b{7}": {}, "c{20}": {}}}]})
    assert limits.size(Grammar("json_schema", text)) == len(text) + 1027


@given(st.text(alphabet="ab()[]{}\\^*+?,19|.-:", max_size=60))
def test_any_pattern_is_taken_or_refused(pattern):
    try:
        assert checked(Grammar("regex", pattern)) == pattern
    except ValueError as refusal:
        assert "repetitions" in str(refusal)  # noqa: PT017  # either is right
