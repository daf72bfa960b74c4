from tokenizers import Tokenizer

from training.words import PADDING, UNKNOWN, padding_of, rows, word_tokenizer


def test_ids_begin_where_the_codes_end_and_follow_the_alphabet():
    tokenizer = word_tokenizer(["red", "a", "dog", "a"], 100)
    assert tokenizer.get_vocab() == {PADDING: 100, UNKNOWN: 101, "a": 102, "dog": 103, "red": 104}
    assert padding_of(tokenizer) == 100


def test_case_accents_and_signs_make_no_difference():
    tokenizer = word_tokenizer(["a", "red", "dog"], 10)
    assert tokenizer.encode("A réd--DOG!").ids == tokenizer.encode("a red dog").ids == [12, 14, 13]
    assert tokenizer.encode("a <pad> dog").ids == [12, 11, 13], "nobody can spell the padding"
    assert tokenizer.encode("").ids == []


def test_rows_are_padded_and_cut():
    tokenizer = word_tokenizer(["a", "dog"], 10)
    assert rows(tokenizer, ["a dog", "a cat a dog a", ""], 4) == [[12, 13, 10, 10], [12, 11, 12, 13], [10] * 4]


def test_the_file_that_is_served_says_the_same():
    tokenizer = word_tokenizer(["a", "dog"], 10)
    assert Tokenizer.from_str(tokenizer.to_str()).encode("a DOG, zebu").ids == [12, 13, 11]
