"""The words that a model's captions are made of: a word-level `tokenizer.json`. No torch.

Knows words and ids; knows no requests. A caption is read whole or not at all: what is no word of it is named.
"""

import json
import unicodedata
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import tokenizers

BETWEEN = ("P", "Z", "C")  # Unicode's categories of what may stand between words: punctuation, spaces, line breaks


class Vocabulary:
    """A word-level tokenizer of the tokenizers library."""

    def __init__(self, path: Path, pad_token_id: int) -> None:
        """Read the file; its sha256 has been checked by the worker.

        Padding, and what stands for words that are not known, are no words.
        """
        self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        stranger = json.loads(self._tokenizer.to_str())["model"].get("unk_token")
        known = self._tokenizer.get_vocab(with_added_tokens=False).items()
        self._ids = {word: token for word, token in known if word != stranger and token != pad_token_id}

    @cached_property
    def words(self) -> list[str]:
        """All words, in alphabetical order."""
        return sorted(self._ids)

    def read(self, caption: str) -> tuple[list[int], list[str]]:
        """The ids of a caption's words in their order; and what in it is no word of the vocabulary, each once."""
        text = self._normalised(caption)
        spans = [span for _, span in self._cut(text)]
        words = [text[start:end] for start, end in spans]
        strange = [word for word in words if word not in self._ids]
        strange += _strange_between(text, spans)
        return [self._ids[word] for word in words if word in self._ids], list(dict.fromkeys(strange))

    def _normalised(self, text: str) -> str:
        normalizer = self._tokenizer.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def _cut(self, text: str) -> list[tuple[str, tuple[int, int]]]:
        cutter = self._tokenizer.pre_tokenizer
        return [(text, (0, len(text)))] if cutter is None else list(cutter.pre_tokenize_str(text))


def _strange_between(text: str, spans: Iterable[tuple[int, int]]) -> list[str]:
    """Letters and signs that the tokenizer would pass over in silence, as whole as spaces leave them."""
    left = list(text)
    for start, end in spans:
        left[start:end] = " " * (end - start)
    return [
        part for part in "".join(left).split() if any(unicodedata.category(letter)[0] not in BETWEEN for letter in part)
    ]
