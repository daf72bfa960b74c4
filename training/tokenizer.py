"""Tokenizers, trained through the `tokenizers` package: of bytes and what they merge to, or of words.

The first is byte-level BPE (Sennrich et al. 2016; Radford et al. 2019): merges are learnt on top of the bytes; with a
vocabulary of `SMALLEST` there are none, and of ASCII text every character is a token. The second has a token for each
of the most frequent words, marks and line ends, with the blank before it; other words are spelt in pieces, which are
merges learnt from the words that have no token. In both every byte is a token, so that any UTF-8 text is encoded and
comes back unchanged.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from training.errors import TrainingError

END_OF_TEXT = "<|endoftext|>"  # stands before every text and after the last one
SMALLEST = 257  # 256 bytes and the end of text
Kind = Literal["bytes", "words"]
# A word with its apostrophes, a number, marks, line ends, blanks.
WORD = r" ?'?\p{L}+(?:'\p{L}+)*| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\n+|[^\S\n]+(?!\S)|\s"
SPELLING = 8  # one in so many tokens is a piece of words that have none


def train_tokenizer(texts: Iterable[str], vocab_size: int, kind: Kind = "bytes") -> Tokenizer:
    """Learn tokens from texts until the vocabulary has this size; the same texts always give the same tokenizer.

    Raises:
        TrainingError: the vocabulary has no room for the bytes, or the texts are too short to fill it.
    """
    if vocab_size < SMALLEST:
        raise TrainingError(f"data.vocab_size = {vocab_size}: at least {SMALLEST} are needed, for the bytes")
    tokenizer = _train_words(texts, vocab_size) if kind == "words" else _train_bytes(texts, vocab_size)
    if tokenizer.get_vocab_size() != vocab_size:
        found = tokenizer.get_vocab_size()
        raise TrainingError(f"data.vocab_size = {vocab_size}: the training texts are too short, they give {found}")
    return tokenizer


def _train_bytes(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE."""
    tokenizer = _assemble(models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.train_from_iterator(texts, _trainer(vocab_size))
    return tokenizer


def _train_words(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """The most frequent words, and merges that spell the others."""
    cut = _words()
    counts = Counter(word for text in texts for word, _ in cut.pre_tokenize_str(text))
    frequent = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    pieces = (vocab_size - SMALLEST) // SPELLING
    known = set(frequent[: vocab_size - SMALLEST - pieces])
    speller = Tokenizer(models.BPE())
    rare = (word for word in frequent if word not in known for word in repeat(word, counts[word]))
    speller.train_from_iterator(rare, _trainer(SMALLEST + pieces))
    model = json.loads(speller.to_str())["model"]
    vocabulary = dict(model["vocab"])
    for word in frequent:
        if len(vocabulary) < vocab_size:
            vocabulary.setdefault(word, len(vocabulary))
    merges = [(left, right) for left, right in model["merges"]]
    tokenizer = _assemble(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True), cut)
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def _words() -> pre_tokenizers.PreTokenizer:
    """Cuts a text into what may have a token, in the letters that stand for bytes."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _assemble(model: models.Model, cut: pre_tokenizers.PreTokenizer) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = cut
    tokenizer.decoder = decoders.ByteLevel()
    # texts are plain: one that spells the end of text out must not end there
    tokenizer.encode_special_tokens = True
    return tokenizer


def _trainer(vocab_size: int) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )


def kind(tokenizer: Tokenizer) -> Kind:
    """What its tokens are."""
    return "words" if getattr(tokenizer.model, "ignore_merges", False) else "bytes"


def end_of_text(tokenizer: Tokenizer) -> int:
    """The token that stands between texts.

    Raises:
        TrainingError: the tokenizer has none.
    """
    token = tokenizer.token_to_id(END_OF_TEXT)
    if token is None:
        raise TrainingError(f"the tokenizer has no token {END_OF_TEXT}")
    return token


def stream(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """All texts as one list of tokens, the end of text before each and after the last."""
    end = end_of_text(tokenizer)
    tokens = [end]
    for encoding in tokenizer.encode_batch(list(texts)):
        tokens += [*encoding.ids, end]
    return tokens
