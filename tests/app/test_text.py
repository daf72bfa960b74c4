"""Text comes in whole characters, ends before its stop string, and a prompt is only ever text."""

import itertools

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

from app.text import StopStrings, Tokenizer
from tests import byte_pieces
from tests import fake_sequences as fakes


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(fakes.tokenizer_file())
    return Tokenizer(path)


def streamed(tokenizer, ids):
    detokenizer = tokenizer.stream()
    return [detokenizer.push(token) for token in ids], detokenizer.finish()


# tokenizer


def test_text_there_and_back(tokenizer):
    assert tokenizer.encode("the thé") == [fakes.THE, 32, fakes.TH, fakes.ACUTE]
    assert tokenizer.decode([fakes.THE, 32, fakes.TH, fakes.ACUTE]) == "the thé"
    assert (tokenizer.ids, tokenizer.longest) == (fakes.VOCAB, len(fakes.END_OF_TEXT))


@given(st.text())
def test_any_text_comes_back_unchanged(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", [fakes.END_OF_TEXT, f"a{fakes.END_OF_TEXT}b", f"<{fakes.END_OF_TEXT}>"])
def test_a_special_token_in_a_prompt_is_plain_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert fakes.EOS not in ids
    assert tokenizer.decode(ids) == text


def test_the_end_of_a_text_is_not_text(tokenizer):
    assert tokenizer.decode([104, fakes.EOS, 105]) == "hi"
    assert tokenizer.token(fakes.EOS) == fakes.END_OF_TEXT


def test_every_token_has_a_name(tokenizer):
    assert tokenizer.token(ord("a")) == "a"
    assert tokenizer.token(fakes.ACUTE) == "é"
    names = [tokenizer.token(token) for token in range(fakes.VOCAB)]
    assert all(names)
    assert len(set(names)) >= fakes.VOCAB - 1, "parts of characters have names of their own"


# detokenizer


@pytest.mark.parametrize("text", ["naïve", "€", "日本語", "😀", "👩‍👩‍👧", "e\u0301", "a😀b", "\u200d"])
def test_characters_are_never_cut(tokenizer, text):
    """One token a byte: nothing until the last byte of a character, then the character."""
    pieces, rest = streamed(tokenizer, text.encode())
    assert rest == ""
    assert "".join(pieces) == text
    assert [piece for piece in pieces if piece] == list(text)
    assert not any("\ufffd" in piece for piece in pieces)


def test_an_incomplete_character_at_the_end_is_shown_as_such(tokenizer):
    assert streamed(tokenizer, [97, *"😀".encode()[:3]]) == (["a", "", "", ""], "\ufffd")
    assert streamed(tokenizer, []) == ([], "")


def test_bytes_that_make_no_character_do_not_stop_the_text(tokenizer):
    pieces, rest = streamed(tokenizer, [97, 0xFF, 98, 0xE2, 0x82, 99])
    assert "".join(pieces) + rest == "a\ufffdb\ufffdc"
    assert rest == ""


tricky = st.sampled_from([0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0x80, 0x41, fakes.EOS, fakes.ACUTE])


@given(st.lists(tricky | st.integers(0, fakes.VOCAB - 1), max_size=40))
@example([0xEF, 0xBF, 0xBD])  # a real U+FFFD
def test_pieces_add_up_to_the_whole(tokenizer, ids):
    pieces, rest = streamed(tokenizer, ids)
    assert "".join(pieces) + rest == tokenizer.decode(ids)


# byte fallback


@pytest.fixture(scope="module", params=[True, False], ids=["prefix", "no-prefix"])
def pieces(request, tmp_path_factory):
    """A tokenizer of SentencePiece's kind, the library's own of the same file, and whether texts begin with a space."""
    path = tmp_path_factory.mktemp("pieces") / "tokenizer.json"
    path.write_bytes(byte_pieces.tokenizer_file(prefix=request.param))
    return Tokenizer(path), tokenizers.Tokenizer.from_file(str(path)), request.param


def by_rule(ids, strips):
    """The text of ids by definition, and whether its bytes make characters."""
    names = [byte_pieces.TOKENS[token] for token in ids if byte_pieces.TOKENS[token] not in byte_pieces.SPECIALS]
    text, sound = "", True
    for bytes_, run in itertools.groupby(names, byte_pieces.BYTES.__contains__):
        said = list(run)
        raw = bytes(map(byte_pieces.BYTES.index, said)) if bytes_ else "".join(said).replace("\u2581", " ").encode()
        text += raw.decode(errors="replace")
        sound &= not bytes_ or raw == raw.decode(errors="replace").encode()
    return text.removeprefix(" ") if strips else text, sound


spelled = st.text("é€😀\u2581 \ufffdx", max_size=3).map(lambda text: [byte_pieces.byte(b) for b in text.encode()])
single = st.integers(0, len(byte_pieces.TOKENS) - 1) | st.sampled_from(byte_pieces.SPEAKING)
sound_runs = st.lists(spelled | st.sampled_from(byte_pieces.SPEAKING).map(lambda token: [token]), max_size=12)
rows = st.lists(spelled | single.map(lambda token: [token]), max_size=20)


@given(rows | sound_runs, st.lists(st.integers(0, 60), max_size=10), st.booleans())
@example([byte_pieces.ids("<0x0A>"), byte_pieces.ids("<0xE2>", "x")], [1], False)
@example([byte_pieces.ids("<0xE2>", "</s>", "<0x82>", "<0xAC>")], [2], False)  # no text comes between those bytes
@example([byte_pieces.ids("<0x20>", "<0x20>", "\u2581the")], [1, 2], False)
@example([byte_pieces.ids("", "\u2581", "\u2581the")], [1], False)
@example([byte_pieces.ids("<0xE2>", "<0x96>", "<0x81>")], [], False)  # a character, no space
def test_a_text_follows_from_its_tokens_however_they_are_cut(pieces, runs, cuts, within):
    tokenizer, library, prefix = pieces
    ids = [token for run in runs for token in run]
    places = sorted({0, *(min(cut, len(ids)) for cut in cuts), len(ids)})
    stream = tokenizer.stream(within=within)
    text = "".join(stream.push(*ids[start:end]) for start, end in itertools.pairwise(places)) + stream.finish()
    wanted, sound = by_rule(ids, strips=prefix and not within)
    assert text == wanted
    if sound:
        before = byte_pieces.ids("x") if within else []
        assert text == library.decode(before + ids)[len(before) :]
    if not within:
        assert text == tokenizer.decode(ids)


@given(st.text("ab the€😀é\u2581\n"))
def test_characters_in_bytes_are_held_back_until_they_are_whole(pieces, text):
    ids = [byte_pieces.byte(b) for b in text.encode()]
    stream = pieces[0].stream(within=True)
    shown = [stream.push(token) for token in ids]
    assert [piece for piece in shown if piece] == list(text)
    assert stream.finish() == ""


def test_a_text_that_goes_on_may_begin_with_a_space_and_one_that_begins_does_not(pieces):
    tokenizer, _, prefix = pieces
    begun, within = tokenizer.stream(), tokenizer.stream(within=True)
    said = [[stream.push(token) for token in byte_pieces.ids("\u2581", "\u2581the")] for stream in (begun, within)]
    assert said == [["" if prefix else " ", " the"], [" ", " the"]]


def test_an_incomplete_character_of_bytes_at_the_end(pieces):
    stream = pieces[0].stream()
    assert [stream.push(token) for token in byte_pieces.ids("x", "<0xF0>", "<0x9F>")] == ["x", "", ""]
    assert (stream.finish(), stream.finish()) == ("\ufffd", "")


# stop strings


def cut(text, stops):
    """The text before the stop string that is complete first, by the slowest of ways."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


def pieces_of(text, sizes):
    """The text in pieces of these sizes, over and over."""
    at, turn = 0, 0
    while at < len(text):
        yield text[at : at + sizes[turn % len(sizes)]]
        at += sizes[turn % len(sizes)]
        turn += 1


letters = st.text("ab\n", max_size=30)
stop_lists = st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4)
cuts = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@given(letters, st.text("ab\n", min_size=1, max_size=5), cuts)
def test_one_stop_string_is_found_where_find_finds_it(text, stop, sizes):
    finder = StopStrings([stop])
    shown = "".join(finder.push(piece) for piece in pieces_of(text, sizes)) + finder.finish()
    place = text.find(stop)
    assert shown == (text[:place] if place >= 0 else text)
    assert finder.found == (place >= 0)


@given(letters, stop_lists, cuts)
@example("abab", ["abab", "ba"], [4])
def test_several_are_found_alike_however_the_text_is_cut(text, stops, sizes):
    finder = StopStrings(stops)
    shown = "".join(finder.push(piece) for piece in pieces_of(text, sizes)) + finder.finish()
    assert (shown, finder.found) == cut(text, stops)


@given(letters, stop_lists, cuts, st.data())
def test_nothing_of_a_stop_string_leaks_before_it_is_complete(text, stops, sizes, data):
    """Whatever follows, what was shown so far is a beginning of what will be shown in the end."""
    finder, shown, read = StopStrings(stops), "", ""
    for piece in pieces_of(text, sizes):
        shown, read = shown + finder.push(piece), read + piece
        future = read + data.draw(st.sampled_from([*stops, *(stop[1:] for stop in stops), ""]))
        assert cut(future, stops)[0].startswith(shown)
        if not finder.found:
            held = len(read) - len(shown)
            assert held < max(map(len, stops), default=1), "and no more is held back than must be"
            assert held == 0 or any(stop.startswith(read[len(shown) :]) for stop in stops)


def test_nothing_comes_after_the_stop():
    finder = StopStrings(["X"])
    assert [finder.push(piece) for piece in ("abXc", "d", "X")] == ["ab", "", ""]
    assert finder.finish() == ""


def test_what_was_held_in_vain_is_given_at_the_end():
    finder = StopStrings(["abc"])
    assert (finder.push("xab"), finder.finish(), finder.finish()) == ("x", "ab", "")
    assert not finder.found
