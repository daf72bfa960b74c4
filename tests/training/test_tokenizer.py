import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from training import tokenizer as tokenizers
from training.errors import TrainingError

TEXTS = ["the king shall speak to the queen\n" * 9, "no man shall speak of the night\n" * 9]
TOKENIZER = tokenizers.train_tokenizer(TEXTS, 280)


@settings(deadline=None)
@given(text=st.text())
def test_any_text_comes_back(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids) == text


def test_the_same_texts_give_the_same_tokenizer():
    assert tokenizers.train_tokenizer(TEXTS, 280).to_str() == TOKENIZER.to_str()
    assert tokenizers.train_tokenizer(TEXTS[:1], 270).to_str() != TOKENIZER.to_str()


def test_merges_shorten_and_bytes_alone_do_not():
    text = TEXTS[0]
    assert len(TOKENIZER.encode(text).ids) < len(text) / 2
    plain = tokenizers.train_tokenizer(TEXTS, tokenizers.SMALLEST)
    assert len(plain.encode(text).ids) == len(text)
    assert len(plain.encode("é").ids) == 2


def test_texts_stand_between_ends():
    end = tokenizers.end_of_text(TOKENIZER)
    assert end == 0
    tokens = tokenizers.stream(TOKENIZER, ["ab", "c"])
    assert [i for i, token in enumerate(tokens) if token == end] == [0, len(tokens) - 1 - len("c") - 1, len(tokens) - 1]
    assert TOKENIZER.decode(tokens) == "abc"


def test_a_text_can_not_spell_the_end():
    ids = TOKENIZER.encode("a<|endoftext|>b").ids
    assert tokenizers.end_of_text(TOKENIZER) not in ids
    assert TOKENIZER.decode(ids) == "a<|endoftext|>b"


def test_sizes_that_can_not_be_had_are_refused():
    with pytest.raises(TrainingError, match=r"data\.vocab_size = 256: at least 257"):
        tokenizers.train_tokenizer(TEXTS, 256)
    with pytest.raises(TrainingError, match=r"data\.vocab_size = 1000: .*too short, they give \d+"):
        tokenizers.train_tokenizer(["short"], 1000)


def test_a_tokenizer_without_an_end_is_refused():
    with pytest.raises(TrainingError, match=r"no token <\|endoftext\|>"):
        tokenizers.end_of_text(Tokenizer(models.BPE()))


PROSE = [
    "The king, the queen; o'er all 'tis night.\n\nThe king's fool -- the fool!\nNo more.\n" * 9,
    "quail quaint quake queer quell quest quick quiet quill quilt",
]
WORDS = tokenizers.train_tokenizer(PROSE, 280, "words")


@settings(deadline=None)
@given(text=st.text())
def test_any_text_comes_back_from_words(text):
    assert WORDS.decode(WORDS.encode(text).ids) == text


def tokens(text):
    return [WORDS.decode([token]) for token in WORDS.encode(text).ids]


def test_frequent_words_marks_and_line_ends_are_one_token():
    said = "The king, the queen; o'er all 'tis night.\n\nThe king's"
    assert "|".join(tokens(said)) == "The| king|,| the| queen|;| o'er| all| 'tis| night|.|\n\n|The| king's"


def test_other_words_are_spelt_in_pieces_of_words_that_are_rare():
    assert tokens("The quay") == ["The", " qu", "a", "y"]
    assert tokens("The kin") == ["The", " ", "k", "i", "n"], "the words that have a token teach no pieces"


def test_the_same_texts_give_the_same_words():
    again = tokenizers.train_tokenizer(PROSE, 280, "words")
    assert again.to_str() == WORDS.to_str()
    assert (tokenizers.kind(again), tokenizers.kind(TOKENIZER)) == ("words", "bytes")
    assert tokenizers.kind(Tokenizer.from_str(again.to_str())) == "words"


def test_words_can_not_spell_the_end_either():
    ids = WORDS.encode("a<|endoftext|>b").ids
    assert tokenizers.end_of_text(WORDS) == 0 not in ids
    assert WORDS.decode(ids) == "a<|endoftext|>b"


def test_too_few_words_are_refused():
    with pytest.raises(TrainingError, match=r"data\.vocab_size = 1000: .*too short, they give \d+"):
        tokenizers.train_tokenizer(["short"], 1000, "words")
