"""Texts made of allowed tokens alone fit their grammar; a grammar that can't be kept is refused in one short line."""

import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from app.engine.jobs import Grammar
from app.worker import grammars as module
from app.worker.grammar_limits import size
from app.worker.grammars import GrammarRefused, Grammars, GrammarsBusy, Matcher
from tests.serving import wait_until

COMMITTED = Path(__file__).parents[3] / "weights" / "shakespeare-gpt" / "tokenizer.json"
END, TURN, BEGIN = "<|end|>", "<|turn|>", "<|begin|>"
WAIT = 120.0
ROAM = 40  # tokens at random before a text is brought to its end
TOO_LONG = 1500  # tokens: no walk of these tests comes near

CORPUS = [
    '{"name": "Zoë", "age": 41, "tags": ["crème brûlée", "漢字"]}',
    "the quick brown fox, 3.14 of them; é ü 漢 ☃ 🙂",
]


def trained():
    """A byte-level BPE with special tokens, characters split over tokens, and an added token that is plain text."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=alphabet, special_tokens=[END, TURN, BEGIN], show_progress=False
    )
    made.train_from_iterator(CORPUS * 4, trainer)
    made.add_tokens(["<plain>"])
    return made


class Model:
    """A tokenizer with a network that knows more ids than it, and the grammars of both."""

    def __init__(self, path, stops=(END,), padding=7):
        self.tokenizer = tokenizers.Tokenizer.from_file(str(path))
        self.path, self.vocab_size = path, self.tokenizer.get_vocab_size() + padding
        self.stops = tuple(self.tokenizer.token_to_id(stop) for stop in stops)
        self.grammars = Grammars(path, self.vocab_size, self.stops)

    def compile(self, kind, text=""):
        text = text if isinstance(text, str) else json.dumps(text)
        return self.grammars.compile(Grammar(kind, text)).result(WAIT)

    def refusal(self, kind, text=""):
        with pytest.raises(GrammarRefused) as refused:
            self.compile(kind, text)
        return str(refused.value)

    def follow(self, matcher, text):
        for token in self.tokenizer.encode(text, add_special_tokens=False).ids:
            assert matcher.allowed()[token], (text, self.tokenizer.id_to_token(token))
            matcher.accept(token)
        return matcher

    def decode(self, tokens):
        return self.tokenizer.decode(tokens, skip_special_tokens=False)

    def allowed(self, matcher):
        return set(np.flatnonzero(matcher.allowed()).tolist())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    trained().save(str(path))
    model = Model(path, stops=(END, TURN))
    yield model
    model.grammars.close()


@pytest.fixture(scope="module")
def shakespeare():
    model = Model(COMMITTED, stops=("<|endoftext|>",), padding=0)
    yield model
    model.grammars.close()


@pytest.fixture
def either(request, small, shakespeare):
    return {"small": small, "shakespeare": shakespeare}[request.param]


both = pytest.mark.parametrize("either", ["small", "shakespeare"], indirect=True)

# what is drawn fits


def closing(model, allowed, step):
    """A token that brings a text nearer to its end: whatever closes something, else any character, in turns."""
    names = {model.tokenizer.id_to_token(token): token for token in allowed}
    for name in ('"', "}", "]", ".", "0", "e", "l", "a", "c"):
        if name in names and (step + len(name)) % 7:
            return names[name]
    return sorted(allowed)[step % len(allowed)]


def walk(model, matcher, data):
    """Draw allowed tokens until a stop is drawn; after a while, head for the end."""
    tokens = []
    for step in range(TOO_LONG):
        allowed = model.allowed(matcher)
        stops = allowed & set(model.stops)
        assert not stops or stops == set(model.stops)
        if step < ROAM:
            token = data.draw(st.sampled_from(sorted(allowed)))
        else:
            token = min(stops) if stops else closing(model, allowed, step)
        matcher.accept(token)
        if token in model.stops:
            assert model.allowed(matcher) == set(model.stops)
            return model.decode(tokens)
        tokens.append(token)
    raise AssertionError(model.decode(tokens))


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "bé", 3, None, True]}, "maxItems": 3},
    },
    "required": ["age", "name"],
    "additionalProperties": False,
}
SCHEMAS = [
    PERSON,
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    {"anyOf": [{"const": {"a": [1, "漢"]}}, {"type": "string", "pattern": "^[a-f]{2,4}$"}, {"type": "null"}]},
    {
        "oneOf": [
            {"type": "integer", "multipleOf": 7, "minimum": -700, "maximum": 700},
            {"type": "string", "format": "uuid"},
        ]
    },
    {"allOf": [{"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}, {"maxProperties": 1}]},
    {
        "$ref": "#/$defs/tree",
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {
                    "leaf": {"type": "boolean"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
                },
                "required": ["leaf"],
                "additionalProperties": False,
            }
        },
    },
    {"type": "object", "additionalProperties": {"type": "string"}},
    {},
]
PATTERNS = [
    r"[a-z]{3,8}@[a-z]+\.(com|org)",
    r"(é|ü|漢字|🙂)+x?",
    r"^-?[0-9]{1,5}(\.[0-9]{1,3})?$",
    r"(?i)yes|no",
    r"[^a-z\n]{0,20}",
    r"",
]
walks = settings(
    max_examples=8,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@both
@pytest.mark.parametrize("schema", SCHEMAS)
@walks
@given(data=st.data())
def test_a_drawn_text_is_valid_json_of_its_schema(either, schema, data):
    text = walk(either, either.compile("json_schema", schema), data)
    jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())
    assert text == text.strip()


@both
@pytest.mark.parametrize("pattern", PATTERNS)
@walks
@given(data=st.data())
def test_a_drawn_text_is_matched_by_its_expression(either, pattern, data):
    assert re.fullmatch(pattern, walk(either, either.compile("regex", pattern), data))


@both
@walks
@given(data=st.data())
def test_any_json_object(either, data):
    assert isinstance(json.loads(walk(either, either.compile("json_object"), data)), dict)


# what may come


def test_properties_in_the_schemas_order_and_little_whitespace(small):
    schema = {"properties": {"b": {"type": "null"}, "a": {"type": "null"}}, "required": ["a", "b"], "type": "object"}
    for text in ('{"b":null,"a":null}', '{"b": null, "a": null}'):
        assert small.follow(small.compile("json_schema", schema), text).allowed()[list(small.stops)].all()
    for text in ('{"a"', '{ "b"', '{"b":  null', '{"b": null ', '{"b":\n', '{"b": null,\n'):
        with pytest.raises(AssertionError):
            small.follow(small.compile("json_schema", schema), text)


def test_further_properties_are_allowed_unless_the_schema_says_no(small):
    text = '{"b":1,"x":[]}'
    small.follow(small.compile("json_schema", {"type": "object", "properties": {"b": {}}}), text)
    closed = small.compile("json_schema", {"type": "object", "properties": {"b": {}}, "additionalProperties": False})
    with pytest.raises(AssertionError):
        small.follow(closed, text)


def test_stop_tokens_exactly_where_the_text_may_end(small):
    matcher = small.compile("regex", "(ab){1,2}")
    for character, may_end in zip("abab", (False, False, True, False), strict=True):
        allowed = small.allowed(matcher)
        assert allowed >= set(small.stops) if may_end else not allowed & set(small.stops)
        small.follow(matcher, character)
    assert small.allowed(matcher) == set(small.stops)


def test_after_a_stop_token_only_stop_tokens(small):
    matcher = small.compile("regex", "a*")
    matcher.accept(small.stops[1])
    assert small.allowed(matcher) == set(small.stops)
    matcher.accept(small.stops[0])
    with pytest.raises(ValueError, match="does not fit"):
        matcher.accept(small.tokenizer.token_to_id("a"))


def test_only_text_is_allowed(small):
    """No token added to the vocabulary, special or not, and no id that the network knows and the tokenizer does not."""
    mask = small.compile("regex", r"(?s).*").allowed()
    assert mask.shape == (small.vocab_size,)
    assert mask.dtype == np.bool_
    assert not mask[small.tokenizer.token_to_id(BEGIN)]
    assert not mask[small.tokenizer.get_vocab_size() :].any()
    assert not mask[small.tokenizer.token_to_id("<plain>")]
    assert mask[[small.tokenizer.token_to_id(name) for name in "aZ0"]].all()


def test_a_character_split_over_tokens(small):
    matcher = small.compile("regex", "☃")
    ids = small.tokenizer.encode("☃").ids
    assert len(ids) > 1
    for token in ids:
        assert not small.allowed(matcher) & set(small.stops)
        matcher.accept(token)
    assert small.allowed(matcher) == set(small.stops)


@pytest.mark.parametrize("token", [END, "b", None])
def test_a_token_that_does_not_fit_is_refused_and_changes_nothing(small, token):
    matcher = small.compile("regex", "ac")
    with pytest.raises(ValueError, match=r"fit|can't end"):
        matcher.accept(small.vocab_size - 1 if token is None else small.tokenizer.token_to_id(token))
    assert small.allowed(small.follow(matcher, "ac")) == set(small.stops)


def test_texts_of_one_grammar_are_apart(small):
    first, second = small.compile("regex", "(ab)+"), small.compile("regex", "(ab)+")
    small.follow(first, "ab")
    assert small.allowed(first) != small.allowed(second)
    twin = first.copy()
    small.follow(twin, "a")
    assert small.allowed(first) >= set(small.stops)
    assert not small.allowed(twin) & set(small.stops)


def test_where_nothing_fits_the_text_is_not_passed_off_as_whole(tmp_path):
    """A tokenizer that can't spell what has to come."""
    made = tokenizers.Tokenizer(models.BPE(vocab={"a": 0, END: 1}, merges=[]))
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([END])
    made.save(str(tmp_path / "tokenizer.json"))
    model = Model(tmp_path / "tokenizer.json")
    matcher = model.compile("regex", "a+b")
    matcher.accept(0)
    assert model.allowed(matcher) == {0}
    assert "no text fits" in model.refusal("regex", "b")
    matcher = model.compile("regex", "ab")
    matcher.accept(0)
    with pytest.raises(GrammarRefused, match="no text fits"):
        matcher.allowed()
    model.grammars.close()


# refusals

HOSTILE = [
    ("json_schema", '{"type":', "JSON schema: no JSON: Expecting value at position 8"),
    ("json_schema", "false", "no text fits"),
    ("json_schema", {"not": {"type": "integer"}}, 'unsupported: "not"'),
    ("json_schema", {"if": {}, "then": {}}, 'unsupported: "if", "then"'),
    ("json_schema", {"uniqueItems": True, "type": "array"}, 'unsupported: "uniqueItems"'),
    ("json_schema", {"type": "strang"}, "strang"),
    ("json_schema", {"type": "string", "format": "frob"}, "frob"),
    ("json_schema", {"minimum": 5, "maximum": 3, "type": "integer"}, "minimum"),
    ("json_schema", {"minimum": 1e300, "type": "integer"}, "bounds of a number"),
    ("json_schema", {"oneOf": [{"type": "integer"}, {"minimum": 3}]}, "try anyOf"),
    ("json_schema", {"$ref": "http://127.0.0.1:9/x.json"}, "leads outside the schema"),
    ("json_schema", {"$ref": "file:///etc/passwd"}, "leads outside the schema"),
    ("json_schema", {"$ref": "other.json"}, "leads outside the schema"),
    ("json_schema", {"$ref": "#/$defs/none"}, "does not exist"),
    ("json_schema", {"$ref": "#"}, "no text fits"),
    (
        "json_schema",
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        "no text",
    ),
    ("json_schema", {"allOf": [{"$ref": "#"}, {"type": "integer"}]}, "circular"),
    ("json_schema", '{"items":' * 200 + "{}" + "}" * 200, "nested more than 64 deep"),
    ("json_schema", {"enum": [f"value{i}" for i in range(9000)]}, "larger than 65536 bytes"),
    ("json_schema", {"type": "string", "pattern": "a(b"}, "unclosed group at position 1"),
    ("json_schema", {"type": "string", "pattern": "a{1000000}"}, "repetitions"),
    (
        "json_schema",
        {
            "allOf": [
                {"anyOf": [{"properties": {f"p{i}{j}": {}}, "required": [f"p{i}{j}"]} for j in (0, 1)]}
                for i in range(14)
            ]
        },
        "too complex",
    ),
    ("json_schema", {"const": "\ud800"}, "hex escape"),
    ("regex", "a(b", "regular expression: unclosed group at position 1"),
    ("regex", "[z-a]", "invalid character class range"),
    ("regex", r"(a)\1", "backreferences are not supported"),
    ("regex", "(?=a)b", "look-around"),
    ("regex", r"\bfoo", "lookarounds not supported"),
    ("regex", "[^\\s\\S]", "no text fits"),
    ("regex", "a$b", "lookarounds not supported"),
    ("regex", "((a{1000}){1000}){1000}", "repetitions"),
    ("regex", "(" * 1000 + "a" + ")" * 1000, "nest"),
    ("regex", "x" * 3000, "more than 2048 characters"),
    ("regex", "(?x)((a{ 900 }){ 900 }){ 900 }", "regular expression: the flag x (verbose mode) is not supported"),
    ("regex", "(?P<n[>((a{90}){90}){90})]", "repetitions"),
    ("json_schema", {"type": "string", "pattern": "((a{ 900 }){ 900 }){ 900 }"}, "repetitions"),
]


@pytest.mark.parametrize(("kind", "text", "reason"), HOSTILE)
def test_refused_in_one_short_line_that_names_what_is_wrong(small, kind, text, reason):
    message = small.refusal(kind, text)
    assert reason in message
    assert "\n" not in message
    assert len(message) < module.MAX_MESSAGE + 40
    assert small.compile("regex", "still (works|here)")


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|b)*a(a|b){20}", "^(([a-z])+.)+[A-Z]([a-z])+$", "(((a*)*)*)*b"])
def test_expressions_that_explode_elsewhere_are_followed(small, pattern):
    matcher = small.compile("regex", pattern)
    for _ in range(200):
        small.follow(matcher, "a")


def test_a_message_is_bounded_whatever_the_grammar_holds(small):
    assert len(small.refusal("json_schema", {"type": "x" * 5000})) < module.MAX_MESSAGE + 40


def test_a_model_without_a_token_that_ends_a_text(small):
    model = Model(small.path, stops=())
    assert "no token that ends a text" in model.refusal("regex", "a")
    model.grammars.close()


@pytest.mark.parametrize("content", [b"{}", b"\xff", b"wordpiece"])
def test_a_tokenizer_that_the_library_can_not_read(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    grammars = Grammars(path, 10, (0,))
    with pytest.raises(GrammarRefused, match="this model's tokenizer does not allow for grammars"):
        grammars.compile(Grammar("regex", "a")).result(WAIT)
    grammars.close()


@pytest.fixture
def held(small, monkeypatch):
    """A model whose thread compiles "a", and is held until the gate is set; and what was compiled."""
    begun, gate, compiled, real = threading.Event(), threading.Event(), [], Grammars._compiled

    def compile_later(self, grammar):
        compiled.append(grammar.text)
        begun.set()
        assert gate.wait(WAIT)
        return real(self, grammar)

    monkeypatch.setattr(Grammars, "_compiled", compile_later)
    model = Model(small.path)
    first = model.grammars.compile(Grammar("regex", "a"))
    assert begun.wait(WAIT)
    yield model, first, gate, compiled
    gate.set()
    model.grammars.close()


def test_too_many_at_once_are_turned_away_and_nothing_is_known_against_them(held):
    model, first, gate, _ = held
    waiting = [model.grammars.compile(Grammar("regex", f"a{{{i}}}")) for i in range(module.MAX_WAITING)]
    with pytest.raises(GrammarsBusy, match="too many are waiting"):
        model.grammars.compile(Grammar("regex", "b")).result(WAIT)
    gate.set()
    assert all(isinstance(future.result(WAIT), Matcher) for future in (first, *waiting))
    assert isinstance(model.compile("regex", "b"), Matcher)


def test_however_many_wait_for_a_grammar_it_takes_one_place_and_is_compiled_once(held):
    model, first, gate, compiled = held
    same = [model.grammars.compile(Grammar("regex", "b+")) for _ in range(3 * module.MAX_WAITING)]
    other = model.grammars.compile(Grammar("regex", "yes|no"))
    bad = [model.grammars.compile(Grammar("regex", "(")) for _ in range(3)]
    assert all(future.cancel() for future in same[::2])
    gate.set()
    texts = [future.result(WAIT) for future in (first, other, *same[1::2])]
    assert len({id(text) for text in texts}) == len(texts)
    model.follow(texts[2], "b")
    assert model.allowed(texts[2]) != model.allowed(texts[3]), "each has its own"
    for future in bad:
        with pytest.raises(GrammarRefused, match="unclosed group"):
            future.result(WAIT)
    assert compiled == ["a", "b+", "yes|no", "("]


def test_what_nobody_waits_for_any_more_is_not_compiled_and_takes_no_place(held):
    model, first, gate, compiled = held
    for i in range(2 * module.MAX_WAITING):
        left = [model.grammars.compile(Grammar("regex", f"b{{{i}}}")) for _ in range(2)]
        assert all(future.cancel() for future in left)
    again = model.grammars.compile(Grammar("regex", "b{3}"))
    assert first.cancel()
    resumed = model.grammars.compile(Grammar("regex", "a"))
    gate.set()
    assert isinstance(again.result(WAIT), Matcher)
    assert isinstance(resumed.result(WAIT), Matcher), "what had begun goes on, for whoever asks next"
    assert compiled == ["a", "b{3}"]


# what is kept


def test_a_grammar_is_compiled_once(small, monkeypatch):
    compiled = []
    real = Grammars._compiled
    monkeypatch.setattr(Grammars, "_compiled", lambda self, grammar: compiled.append(grammar) or real(self, grammar))
    futures = [small.grammars.compile(Grammar("regex", "once+")) for _ in range(8)]
    assert all(isinstance(future.result(WAIT), Matcher) for future in futures)
    assert small.grammars.compile(Grammar("regex", "once+")).done()
    first, second = (small.refusal("regex", "once(") for _ in range(2))
    assert first == second
    assert compiled == [Grammar("regex", "once+"), Grammar("regex", "once(")]


def test_an_overdue_grammar_is_refused_at_once_until_it_is_compiled_after_all(small, monkeypatch):
    slow, gate, real = Grammar("regex", "slow"), threading.Event(), Grammars._compiled

    def held(self, grammar):
        assert grammar != slow or gate.wait(WAIT)
        return real(self, grammar)

    monkeypatch.setattr(Grammars, "_compiled", held)
    quick = Model(small.path)
    monkeypatch.setattr(module, "COMPILE_SECONDS", 0.05)
    overdue = Model(small.path)
    for model in (overdue, quick):
        model.grammars._tokenizer = small.grammars._read_tokenizer()
    first = overdue.refusal("regex", "slow")
    again = overdue.grammars.compile(slow)
    assert again.done()
    assert str(again.exception()) == first == "the grammar was not compiled: not done within 0.05 seconds"
    gate.set()
    wait_until(lambda: overdue.grammars.compile(slow).exception() is None, "it is not compiled after all")
    quick.compile("regex", "slow")
    quick.grammars._keep(slow, GrammarRefused("overdue"), late=False)  # in the moment when it was compiled
    quick.compile("regex", "slow")
    for model in (overdue, quick):
        model.grammars.close()


def test_a_tokenizer_is_read_ahead(small, monkeypatch):
    read, real = [], Grammars._read_tokenizer
    monkeypatch.setattr(Grammars, "_read_tokenizer", lambda self: read.append(threading.current_thread()) or real(self))
    model = Model(small.path)
    model.grammars.warm_up()
    wait_until(lambda: model.grammars._tokenizer is not None, "the tokenizer is not read")
    (thread,) = read
    assert thread.name == "genserve-grammars"
    model.grammars.close()
    thread.join(WAIT)
    assert model.grammars.compile(module.FIRST).done()


def test_what_is_kept_is_bounded(small, monkeypatch):
    model = Model(small.path)
    for i in range(module.MAX_KEPT + 10):
        model.compile("regex", f"[a-c]{{{i + 1}}}")
        model.compile("regex", "[a-c]{1}")  # asked for again and again, so it stays
    assert len(model.grammars._kept) == module.MAX_KEPT
    assert Grammar("regex", "[a-c]{1}") in model.grammars._kept
    assert Grammar("regex", "[a-c]{2}") not in model.grammars._kept
    monkeypatch.setattr(module, "MAX_KEPT_SIZE", 2000)
    for i in range(10):
        model.compile("regex", f"(x{{500}}){i}")
        model.compile("json_schema", {"type": "string", "pattern": f"^(y{{400}}){i}$"})
    assert model.grammars._kept_size == sum(size(grammar) for grammar in model.grammars._kept) <= 2000
    assert 1 < len(model.grammars._kept) < 5
    model.compile("regex", "(z{50}){50}")
    assert model.grammars._find(Grammar("regex", "(z{50}){50}")) is None, "larger than all that is kept"
    model.refusal("json_schema", "x" * 3000)
    assert all(len(grammar.text) < 2000 for grammar in model.grammars._kept)
    model.grammars.close()


def test_after_closing_nothing_is_compiled_and_texts_go_on(small):
    model = Model(small.path)
    matcher = model.compile("regex", "ab")
    model.grammars.close()
    with pytest.raises(GrammarsBusy, match="closed"):
        model.compile("regex", "cd")
    assert model.allowed(model.follow(matcher, "ab")) == set(model.stops)


def test_who_compiles_nothing_pays_nothing(small):
    script = (
        "import sys, threading\nfrom pathlib import Path\nfrom app.worker.grammars import Grammars\n"
        f"grammars = Grammars(Path({str(small.path)!r}), 400, (0,))\n"
        "assert 'llguidance' not in sys.modules and threading.active_count() == 1\n"
        "from app.engine.jobs import Grammar\n"
        "grammars.compile(Grammar('regex', 'a')).result(60)\n"
        "assert 'llguidance' in sys.modules and all(t.daemon for t in threading.enumerate()[1:])\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=WAIT, check=False).returncode == 0
