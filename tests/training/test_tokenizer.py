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
