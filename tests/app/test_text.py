"""Text comes in whole characters, ends before its stop string, and a prompt is only ever text."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.text import StopStrings, Tokenizer
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
