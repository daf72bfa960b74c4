"""SentencePiece's BPE (Kudo & Richardson 2018) as a tokenizer.json.

Knows pieces and their scores: SentencePiece joins the neighbours whose joint piece has the highest score, which is what
BPE does with a list of merges in the order of those scores. What no piece covers becomes bytes.
"""

from collections.abc import Sequence
from typing import Any

from training.errors import TrainingError

SPACE = "\u2581"  # stands for a space
UNKNOWN, CONTROL, USER, BYTE = 2, 3, 4, 6
JOINED = (1, USER)  # types of pieces that can be joined of others
MAX_PIECE = 1 << 10  # characters: each of them is a place where a piece may have been joined


def tokenizer(tokens: Sequence[str], types: Sequence[int], scores: Sequence[float], prefix: bool) -> dict[str, Any]:
    """The fields of a tokenizer.json besides the added tokens; `prefix` puts a space before a text.

    Raises:
        TrainingError: a piece is longer than anybody needs, or no token stands for what is unknown.
    """
    if (longest := max(map(len, tokens))) > MAX_PIECE:
        raise TrainingError(f"tokenizer.ggml.tokens: a token of {longest} characters, more than {MAX_PIECE}")
    if UNKNOWN not in types:
        raise TrainingError("tokenizer.ggml.token_type: no token stands for what is unknown")
    bpe: dict[str, Any] = {"type": "BPE", "dropout": None, "unk_token": tokens[types.index(UNKNOWN)], "fuse_unk": True}
    bpe |= {"continuing_subword_prefix": None, "end_of_word_suffix": None, "byte_fallback": BYTE in types}
    bpe |= {"vocab": {token: place for place, token in enumerate(tokens)}, "merges": merges(tokens, types, scores)}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    before = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    spaces = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    decoders = [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*before, replace]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": bpe,
    }


def merges(tokens: Sequence[str], types: Sequence[int], scores: Sequence[float]) -> list[list[str]]:
    """All pairs of pieces that make a piece, the piece of the highest score first."""
    known = {token: place for place, token in enumerate(tokens) if types[place] in JOINED}
    found = []
    for token, place in known.items():
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        pairs = sorted((known[left], known[right]) for left, right in cuts if left in known and right in known)
        found += [(-scores[place], place, pair) for pair in pairs]
    return [[tokens[left], tokens[right]] for _, _, (left, right) in sorted(found)]
