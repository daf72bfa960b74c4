"""Prompts of exactly so many tokens, the same for every server: windows of English text, none of which begins alike.

A server that takes token lists gets the tokens; the others get a text of which the tokenizer makes the same tokens.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer

from benchmarks.generators import ROOT

TEXT = ROOT / "LICENSE"


class PromptError(Exception):
    """The text does not hold so many prompts."""


@dataclass(frozen=True)
class Prompt:
    """A text and its tokens."""

    text: str
    tokens: tuple[int, ...]


def make(tokenizer: Tokenizer, length: int, count: int, seed: int) -> list[Prompt]:
    """So many prompts of so many tokens, in an order drawn from the seed.

    Each begins with other tokens than all the rest: no server can reuse what it computed for another.

    Raises:
        PromptError: the text is too short for them.
    """
    tokens = tokenizer.encode(TEXT.read_text(), add_special_tokens=False).ids
    starts = list(range(len(tokens) - length + 1))
    random.Random(seed).shuffle(starts)
    prompts = list(_distinct(tokenizer, tokens, starts, length, count))
    if len(prompts) < count:
        raise PromptError(f"{TEXT.name} has {len(prompts)} prompts of {length} tokens, {count} are asked for")
    return prompts


def _distinct(tokenizer: Tokenizer, tokens: list[int], starts: list[int], length: int, count: int) -> Iterator[Prompt]:
    begun: set[tuple[int, ...]] = set()
    for start in starts:
        if len(begun) == count:
            return
        window = tuple(tokens[start : start + length])
        text = tokenizer.decode(window, skip_special_tokens=False)
        if window[:2] not in begun and _is_exact(tokenizer, text, window):
            begun.add(window[:2])
            yield Prompt(text, window)


def _is_exact(tokenizer: Tokenizer, text: str, tokens: tuple[int, ...]) -> bool:
    """Whether the text has these tokens, for every server: readers of one GGUF file split digits differently."""
    if any(map(str.isdigit, text)):
        return False
    return tuple(tokenizer.encode(text, add_special_tokens=False).ids) == tokens
