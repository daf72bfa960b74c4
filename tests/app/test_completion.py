"""Prompts to sequences and chunks to text, with an engine that the test plays itself."""

import dataclasses
import itertools
import threading

import pytest

from app.chat import Conversation, Turn
from app.completion import DEFAULT_MAX_TOKENS, Ask, Completer
from app.engine.jobs import Chunk, Grammar, Logprob, ModelInfo, Sampling
from app.engine.stream import TokenStream
from app.engine.terms import Terms
from app.errors import DeadlineExceeded, GenserveError, InvalidField
from app.latents import MAX_SEED
from app.schemas.text import MAX_CHOICES
from tests import byte_pieces
from tests import fake_sequences as fakes


class PlayedEngine:
    """Takes the jobs of one request and gives what the test puts."""

    def __init__(self, info):
        self.info, self.jobs, self.given_up, self.left = info, None, [], 0

    def model(self, name, task):
        assert task == "text"
        return self.info

    def leave(self):
        self.left += 1

    def stream(self, jobs, terms):
        self.jobs, self.terms = jobs, terms
        self.made = TokenStream(len(jobs), self.given_up.append, self.leave)
        return self.made

    def put(self, index, tokens, finish=None, logprobs=(), error=None, refused=None):
        ids = tuple(tokens.encode()) if isinstance(tokens, str) else tuple(tokens)
        self.made.put(index, Chunk(index, ids, tuple(logprobs), finish, error, refused))


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(fakes.tokenizer_file())
    info = ModelInfo(
        "m", "sequence", vocab_size=fakes.VOCAB, max_length=64, tokenizer=str(path), stop_tokens=(fakes.EOS,)
    )
    return PlayedEngine(info)


def talk(*said):
    return Conversation(tuple(Turn("user", content) for content in said))


def begin(engine, prompts=("abc",), n=1, max_tokens=10, seed=7, **fields):
    sampling = fields.pop("sampling", Sampling())
    return Completer(engine).begin(Ask(None, prompts, n, max_tokens, seed, sampling, **fields))


# requests to jobs


async def test_every_choice_is_a_job_with_its_own_seed(engine):
    completion = await begin(engine, ["the", "xy"], n=3, seed=40)
    assert [(job.prompt, job.seed) for job in engine.jobs] == [
        *(((fakes.THE,), 40 + j) for j in range(3)),
        *(((120, 121), 43 + j) for j in range(3)),
    ]
    assert {(job.model, job.max_tokens, job.stop_tokens) for job in engine.jobs} == {("m", 10, (fakes.EOS,))}
    assert completion.seed == 40


async def test_a_seed_is_drawn_when_none_is_given(engine):
    seeds = {(await begin(engine, n=2, seed=None)).seed for _ in range(20)}
    assert len(seeds) == 20
    assert all(0 <= seed < MAX_SEED - 2 for seed in seeds)


async def test_an_empty_prompt_begins_a_text(engine):
    await begin(engine, [""])
    assert engine.jobs[0].prompt == (fakes.EOS,)
    engine.info = dataclasses.replace(engine.info, stop_tokens=())
    await begin(engine, [""])
    assert engine.jobs[0].prompt == (0,)


async def test_ids_are_taken_as_they_are(engine):
    await begin(engine, [[fakes.EOS, 1, 2]])
    assert engine.jobs[0].prompt == (fakes.EOS, 1, 2)


async def test_a_text_begins_with_what_the_model_s_texts_begin_with(engine):
    engine.info = dataclasses.replace(engine.info, start_tokens=(fakes.EOS, 7))
    await begin(engine, ["a", "", [1]])
    assert [job.prompt for job in engine.jobs] == [(fakes.EOS, 7, 97), (fakes.EOS, 7), (1,)]


@pytest.mark.parametrize(
    ("fields", "ends"),
    [
        ({}, (fakes.EOS, 7)),
        ({"stop_tokens": (9, 7)}, (fakes.EOS, 7, 9)),
        ({"ignore_eos": True}, ()),
        ({"ignore_eos": True, "stop_tokens": (9,)}, (9,)),
    ],
)
async def test_what_ends_a_text(engine, fields, ends):
    engine.info = dataclasses.replace(engine.info, stop_tokens=(fakes.EOS, 7))
    await begin(engine, **fields)
    assert engine.jobs[0].stop_tokens == ends


async def test_the_worker_learns_of_the_grammar_and_the_least_length(engine):
    await begin(engine, min_tokens=10, grammar=None)
    assert (engine.jobs[0].min_tokens, engine.jobs[0].grammar) == (10, None)
    await begin(engine, grammar=Grammar("regex", "a+"), n=2)
    assert [job.grammar for job in engine.jobs] == [Grammar("regex", "a+")] * 2


async def test_max_tokens_is_what_fits_when_it_is_not_said(engine):
    await begin(engine, [[1] * 60], max_tokens=None)
    assert engine.jobs[0].max_tokens == 4
    engine.info = dataclasses.replace(engine.info, max_length=500)
    await begin(engine, max_tokens=None)
    assert engine.jobs[0].max_tokens == DEFAULT_MAX_TOKENS


@pytest.mark.parametrize("length", [1, 63])
async def test_a_slot_may_be_filled(engine, length):
    await begin(engine, [[1] * length], max_tokens=64 - length)
    assert engine.jobs[0].max_tokens == 64 - length


@pytest.mark.parametrize(
    ("wrong", "field", "why"),
    [
        ({"prompts": [[1] * 64]}, "prompt", "64 tokens leave no room; m holds 64"),
        ({"prompts": ["x" * 64]}, "prompt", "64 tokens leave no room"),
        ({"prompts": ["x" * 1_000_000]}, "prompt", "1000000 characters are too many for m"),
        ({"prompts": [[fakes.VOCAB]]}, "prompt", "must be below 260"),
        ({"prompts": ["a", "b" * 70]}, "prompt", "70 tokens"),
        ({"max_tokens": 62}, "max_tokens", "62 after a prompt of 3 tokens exceed the 64 of m"),
        ({"n": MAX_CHOICES, "prompts": ["a", "b"]}, "n", "2 prompts x 64"),
        ({"seed": MAX_SEED, "n": 2}, "seed", "must not exceed"),
        ({"sampling": Sampling(bias=((fakes.VOCAB, 1.0),))}, "logit_bias", "below 260"),
        ({"stop_tokens": (fakes.VOCAB,)}, "stop_token_ids", "below 260"),
        ({"min_tokens": 11}, "min_tokens", "11 are more than max_tokens, 10"),
        ({"min_tokens": 1, "grammar": Grammar("json_object")}, "min_tokens", "not together with response_format"),
        ({"ignore_eos": True, "grammar": Grammar("regex", "a")}, "ignore_eos", "not together with regex"),
        ({"prompts": [talk("hi")]}, "model", "m has no chat template"),
        ({"max_tokens": 62, "limit_field": "max_completion_tokens"}, "max_completion_tokens", "62 after a prompt of 3"),
    ],
)
async def test_what_does_not_fit_is_refused_by_name(engine, wrong, field, why):
    with pytest.raises(InvalidField, match=why) as caught:
        await begin(engine, **wrong)
    assert caught.value.field == field
    assert engine.jobs is None, "nothing was submitted"


async def test_the_last_seeds_there_are(engine):
    await begin(engine, n=2, seed=MAX_SEED - 1)
    assert [job.seed for job in engine.jobs] == [MAX_SEED - 1, MAX_SEED]


# chunks to pieces


async def test_text_in_one_piece(engine):
    completion = await begin(engine, n=2)
    engine.put(0, "he")
    engine.put(1, "good")
    engine.put(0, "llo", "length")
    engine.put(1, "", "stop")
    pieces = await completion.whole()
    assert [(p.index, p.text, p.finish) for p in pieces] == [(0, "hello", "length"), (1, "good", "stop")]
    assert completion.usage.model_dump() == {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}
    assert completion.choices[1].usage.completion_tokens == 4
    assert (engine.given_up, engine.left) == ([], 0)


@pytest.mark.parametrize(
    ("prompts", "n", "tokens"), [(["abc"], 5, 3), (["", ""], 3, 2), (["ab", "ab"], 2, 4), ([[1], [1, 2]], 1, 3)]
)
async def test_a_prompt_counts_once_however_many_choices_it_gets(engine, prompts, n, tokens):
    assert (await begin(engine, prompts, n=n)).usage.prompt_tokens == tokens


async def test_characters_wait_until_they_are_whole(engine):
    completion = await begin(engine)
    smile = "😀".encode()
    engine.put(0, smile[:2])
    engine.put(0, smile[2:])
    engine.put(0, [*b"!", *smile[:1]], "length")
    assert [p.text async for p in completion.pieces()] == ["😀", "!\ufffd"]


async def test_a_stop_string_ends_a_choice_and_frees_its_slot(engine):
    completion = await begin(engine, n=2, stops=("\n\n", "END"))
    engine.put(0, "one\n")
    engine.put(0, "\ntwo")
    engine.put(1, "xEN")
    engine.put(1, "Q", "length")
    pieces = [(p.index, p.text, p.finish) async for p in completion.pieces()]
    assert pieces == [(0, "one", None), (0, "", "stop"), (1, "x", None), (1, "ENQ", "length")]
    assert engine.given_up == [0]
    assert engine.left == 0
    assert completion.choices[0].tokens == 5, "what was generated up to the stop string, and not after it"


async def test_a_stop_string_in_the_last_chunk(engine):
    completion = await begin(engine, stops=("\ufffd",))
    engine.put(0, [97, 0xF0], "length")
    assert [(p.text, p.finish) async for p in completion.pieces()] == [("a", "stop")]
    assert engine.given_up == []


async def test_no_stop_string_counts_before_the_least_length(engine):
    completion = await begin(engine, stops=("b",), min_tokens=3)
    engine.put(0, "abb")
    engine.put(0, "cbd", "length")
    (piece,) = await completion.whole()
    assert (piece.text, piece.finish) == ("abbc", "stop")
    assert completion.completion_tokens == 5


@pytest.mark.parametrize(
    ("grammar", "field"),
    [
        (Grammar("regex", "("), "regex"),
        (Grammar("json_schema", "{}"), "response_format"),
        (Grammar("json_object"), "response_format"),
    ],
)
async def test_a_grammar_that_the_worker_refuses(engine, grammar, field):
    """Before anything else is said, so that it can be an answer of its own."""
    completion = await begin(engine, n=2, grammar=grammar, echo=True)
    engine.put(0, "", refused="grammar, no")
    with pytest.raises(InvalidField, match=f"^{field}: grammar, no$") as caught:
        await anext(completion.pieces())
    assert caught.value.field == field
    assert sorted(engine.given_up) == [0, 1]


async def test_leaving_early_gives_up_the_rest(engine):
    completion = await begin(engine, n=3)
    engine.put(1, "a", "length")
    pieces = completion.pieces()
    await anext(pieces)
    await pieces.aclose()
    assert sorted(engine.given_up) == [0, 2]
    assert engine.left == 1


async def test_an_error_ends_it(engine):
    completion = await begin(engine, n=2)
    engine.put(0, "a")
    engine.put(1, "", error="the model raised ValueError")
    with pytest.raises(GenserveError, match="the model raised ValueError"):
        await completion.whole()
    assert engine.left == 0


# echo and log probabilities


async def test_the_prompt_comes_first_when_it_is_asked_for(engine):
    completion = await begin(engine, ["the thé "], echo=True)
    engine.put(0, "x", "length")
    assert [p.text async for p in completion.pieces()] == ["the thé x"]
    assert not engine.jobs[0].score_prompt


async def test_a_stop_string_in_an_echoed_prompt_ends_nothing(engine):
    completion = await begin(engine, ["a.b"], echo=True, stops=(".",))
    engine.put(0, "c.d", "length")
    (piece,) = await completion.whole()
    assert (piece.text, piece.finish) == ("a.bc", "stop")


async def test_scores_of_an_echoed_prompt(engine):
    completion = await begin(engine, ["the €"], echo=True, sampling=Sampling(logprobs=1))
    job = engine.jobs[0]
    assert job.score_prompt
    assert job.prompt == (fakes.THE, 32, *"€".encode())
    scored = [Logprob(-0.5 * i, ((65 + i, -0.1),)) for i in range(6)]
    engine.put(0, [*job.prompt[1:], 33, 34], "length", scored)
    (piece,) = await completion.whole()
    assert piece.text == 'the €!"'
    assert [s.token for s in piece.scored][:2] == ["the", " "]
    assert [s.logprob for s in piece.scored] == [None, -0.0, -0.5, -1.0, -1.5, -2.0, -2.5]
    assert piece.scored[0].top is None
    assert [(t.token, t.raw, t.logprob) for t in piece.scored[1].top] == [("A", b"A", -0.1)]
    assert b"".join(s.raw for s in piece.scored) == piece.text.encode()
    assert [s.offset for s in piece.scored] == [0, 3, 4, 4, 4, 5, 6], "into the text that is answered"
    assert completion.choices[0].tokens == 2


async def test_offsets_begin_after_a_prompt_that_is_not_echoed(engine):
    completion = await begin(engine, ["thé"], sampling=Sampling(logprobs=0))
    engine.put(0, "ab", "length", [Logprob(-1.0), Logprob(-2.0)])
    (piece,) = await completion.whole()
    assert [(s.token, s.offset, s.top) for s in piece.scored] == [("a", 3, ()), ("b", 4, ())]


async def test_the_end_of_text_has_a_name_and_no_length(engine):
    completion = await begin(engine, [""], echo=True, sampling=Sampling(logprobs=0))
    engine.put(0, "a", "length", [Logprob(-1.0)])
    (piece,) = await completion.whole()
    assert piece.text == "a"
    assert [(s.token, s.offset) for s in piece.scored] == [(fakes.END_OF_TEXT, 0), ("a", 0)]


@pytest.fixture
def falling_back(engine, tmp_path):
    path = tmp_path / "pieces.json"
    path.write_bytes(byte_pieces.tokenizer_file())
    engine.info = dataclasses.replace(engine.info, vocab_size=len(byte_pieces.TOKENS), tokenizer=str(path))
    return engine


STRAY = byte_pieces.ids("<0x0A>", "<0xE2>", "x", "\u2581the")


@pytest.mark.parametrize("fields", [{}, {"stops": ("never",)}])
@pytest.mark.parametrize("cuts", [(0, 4, 4), (0, 1, 4), (0, 2, 4), (1, 2, 3)])
async def test_bytes_that_make_no_character_say_the_same_however_ticks_cut_them(falling_back, fields, cuts):
    completion = await begin(falling_back, [STRAY[-1:]], **fields)
    for start, end in itertools.pairwise([0, *cuts]):
        falling_back.put(0, STRAY[start:end])
    falling_back.put(0, STRAY[cuts[-1] :], "length")
    assert "".join([piece.text async for piece in completion.pieces()]) == "\n\ufffdx the"


async def test_an_echoed_prompt_with_bytes_that_make_no_character_is_scored(falling_back):
    completion = await begin(falling_back, [STRAY], max_tokens=0, echo=True, sampling=Sampling(logprobs=0))
    falling_back.put(0, STRAY[1:], "length", [Logprob(-1.0)] * 3)
    (piece,) = await completion.whole()
    assert piece.text == "\n\ufffdx the"
    assert [(s.token, s.offset) for s in piece.scored] == [("\n", 0), ("bytes:\\xe2", 1), ("x", 1), (" the", 3)]


async def test_what_json_has_no_words_for(engine):
    completion = await begin(engine, sampling=Sampling(logprobs=1))
    engine.put(0, "a", "length", [Logprob(float("-inf"), ((98, float("-inf")),))])
    (piece,) = await completion.whole()
    assert (piece.scored[0].logprob, piece.scored[0].top[0].logprob) == (-9999.0, -9999.0)


# chat

TEMPLATE = "{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}{{ eos_token }}"


def chatting(engine, tmp_path, template=TEMPLATE):
    path = tmp_path / "chat_template.jinja"
    path.write_text(template)
    engine.info = dataclasses.replace(engine.info, chat_template=str(path), start_tokens=(3,))
    completer = Completer(engine)
    return completer, lambda *said, **fields: completer.begin(Ask(None, [talk(*said)], 1, 5, 0, Sampling(), **fields))


async def test_messages_become_the_prompt(engine, tmp_path):
    completer, chat = chatting(engine, tmp_path)
    assert completer.chats(engine.info)
    await chat("the", "a<|endoftext|>")
    plain = tuple(b"<|endoftext|>")
    assert engine.jobs[0].prompt == (fakes.THE, fakes.EOS, 97, *plain, fakes.EOS, fakes.EOS), "and no start tokens"


async def test_reading_a_prompt_takes_of_the_request_s_time(engine, tmp_path, monkeypatch):
    """It has one deadline; and what is read for nobody any more is not submitted."""
    completer, _ = chatting(engine, tmp_path)
    ask = Ask(None, [talk("a")], 1, 5, 0, Sampling())
    await completer.begin(ask, Terms(seconds=50.0))
    assert engine.terms.seconds < engine.terms.given == 50.0
    engine.jobs, release, encode = None, threading.Event(), Completer._encode
    monkeypatch.setattr(Completer, "_encode", lambda *given: release.wait() and encode(*given))
    try:
        with pytest.raises(DeadlineExceeded, match="the prompt was not read in time"):
            await completer.begin(ask, Terms(seconds=0.01))
        assert engine.jobs is None
    finally:
        release.set()
        completer.close()


async def test_a_template_is_read_once(engine, tmp_path):
    _, chat = chatting(engine, tmp_path)
    await chat("a")
    (tmp_path / "chat_template.jinja").unlink()
    await chat("b")
    assert engine.jobs[0].prompt == (98, fakes.EOS, fakes.EOS)


@pytest.mark.parametrize("template", ["{% if %}", None])
async def test_a_template_that_is_none_is_said_once_and_for_all(engine, tmp_path, template, caplog):
    completer, chat = chatting(engine, tmp_path, template or "")
    if template is None:
        (tmp_path / "chat_template.jinja").unlink()
    assert not completer.chats(engine.info)
    with pytest.raises(InvalidField, match="m has no chat template") as caught:
        await chat("a")
    assert caught.value.field == "model"
    assert [record.message[:15] for record in caplog.records] == ["m does not chat"]


@pytest.mark.parametrize(
    ("said", "template", "why"),
    [
        ("x" * 100_000, TEMPLATE, "100000 characters are too many for m"),
        ("x" * 70, TEMPLATE, "72 tokens leave no room"),
        ("x", "{{ raise_exception('not today') }}", "not today"),
        ("x", "{% for i in range(100000) %}x{% endfor %}", "the text becomes too long"),
    ],
)
async def test_messages_that_do_not_fit(engine, tmp_path, said, template, why):
    _, chat = chatting(engine, tmp_path, template)
    with pytest.raises(InvalidField, match=why) as caught:
        await chat(said)
    assert caught.value.field == "messages"
    assert engine.jobs is None
