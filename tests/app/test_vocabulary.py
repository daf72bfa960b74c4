"""Captions are read whole or not at all."""

import pytest
import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

from app.vocabulary import Vocabulary
from tests import fake_outputs as fakes


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(fakes.word_tokenizer())
    return Vocabulary(path, fakes.PAD)


def ids(*words):
    return [fakes.WORD_IDS[word] for word in words]


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("", []),
        ("  \n ", []),
        ("red dog", ["red", "dog"]),
        ("Red, DOG! (on) a... 'cat'", ["red", "dog", "on", "a", "cat"]),
        ("dog-on_cat\u00a0a\u2014red", ["dog", "on", "cat", "a", "red"]),
    ],
)
def test_words_whatever_stands_between_them(vocabulary, caption, words):
    assert vocabulary.read(caption) == (ids(*words), [])


@pytest.mark.parametrize(
    ("caption", "strange"),
    [
        ("red zebra", ["zebra"]),
        ("zebra zebra red zebra", ["zebra"]),
        ("<pad> <unk>", ["pad", "unk", "<", ">"]),
        ("dog 🐶", ["🐶"]),
        ("красная dog", ["красная"]),
        ("naïve", ["na", "ve", "ï"]),
        ("a + a", ["+"]),
        ("2 dogs", ["2", "dogs"]),
    ],
)
def test_what_is_no_word_is_named_once(vocabulary, caption, strange):
    assert vocabulary.read(caption)[1] == strange


def test_the_words_are_listed_without_padding_and_strangers(vocabulary):
    assert vocabulary.words == sorted(fakes.WORDS)


def test_accents_that_the_tokenizer_takes_off_are_no_strangers(tmp_path):
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"cafe": 5, "?": 6}, unk_token="?"))
    made.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Split(Regex("[^a-z0-9]+"), "removed")
    made.save(str(tmp_path / "tokenizer.json"))
    assert Vocabulary(tmp_path / "tokenizer.json", 0).read("Café") == ([5], [])


def test_a_tokenizer_that_cuts_nothing_knows_whole_captions(tmp_path):
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a dog": 3}, unk_token="?")).save(str(tmp_path / "t.json"))
    vocabulary = Vocabulary(tmp_path / "t.json", 0)
    assert vocabulary.read("a dog") == ([3], [])
    assert vocabulary.read("a cat") == ([], ["a cat"])
