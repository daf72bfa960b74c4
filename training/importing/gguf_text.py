"""The tokenizer of a GGUF file as a tokenizer.json, and what else it says of texts.

Knows byte-level BPE (Radford et al. 2019) and how the models that are known cut a text before it; SentencePiece's is in
`pieces`. A cut that is not known is refused by name: nearly the right tokens are the wrong ones.
"""

import json
import math
from typing import Any

from training.errors import TrainingError
from training.importing import pieces
from training.importing.gguf_file import GgufFile
from training.importing.hugging_face import check_template, parse_tokenizer
from training.importing.source import Text

NORMAL, UNKNOWN, CONTROL, USER = 1, 2, 3, 4
KINDS = {"gpt2": "byte-level BPE", "llama": "SentencePiece"}
WORDS = "".join(  # Llama 3's, of which Qwen takes digits one by one
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{%s}|",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ]
)
# Tokens that end a turn or a text, whatever the metadata calls the end.
ENDS = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>")


def _level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(digits: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": WORDS % digits}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _level(use_regex=False)]}


DIGITS = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _level(use_regex=True)]}
CUTS: dict[str, dict[str, Any]] = {
    "gpt-2": {"pre_tokenizer": _level(use_regex=True)},
    "llama-bpe": {"pre_tokenizer": _split("1,3"), "ignore_merges": True},
    "qwen2": {"pre_tokenizer": _split("1"), "normalizer": {"type": "NFC"}},
    "smollm": {"pre_tokenizer": DIGITS},
}


def read_text(file: GgufFile) -> Text:
    """The text side of a file.

    Raises:
        TrainingError: the tokenizer is of a kind that is not known, or damaged.
    """
    kind = file.fields.get("tokenizer.ggml.model")
    if kind not in KINDS:
        known = ", ".join(f"{name} ({what})" for name, what in KINDS.items())
        raise TrainingError(f"tokenizer.ggml.model: {kind!r:.100} is not supported (known: {known})")
    cut = _cut(file) if kind == "gpt2" else ""
    tokens, types = _tokens(file)
    fields = _byte_level(file, tokens, CUTS[cut]) if cut else _pieces(file, tokens, types)
    shared = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": _added(tokens, types, cut)}
    content = json.dumps({**shared, "post_processor": None, **fields}, ensure_ascii=False).encode()
    parse_tokenizer(content, f"{file.path}: tokenizer")
    eos = _token(file, "eos_token_id", tokens)
    named = [_token(file, name, tokens) for name in ("eot_token_id", "eom_token_id")]
    ends = [place for place, token in enumerate(tokens) if token in ENDS and types[place] == CONTROL]
    stops = dict.fromkeys(token for token in [*named, *ends] if token is not None and token != eos)
    template = check_template(file.fields.get("tokenizer.chat_template"), "tokenizer.chat_template")
    return Text(content, eos, tuple(stops), _starts(file, cut, tokens), template)


def _cut(file: GgufFile) -> str:
    """How texts are cut before BPE; a file that does not say was made before anybody did, of GPT-2 alone."""
    cut = file.fields.get("tokenizer.ggml.pre")
    if cut in (None, "default") and file.fields.get("general.architecture") == "gpt2":
        return "gpt-2"
    if not isinstance(cut, str) or cut not in CUTS:
        raise TrainingError(f"tokenizer.ggml.pre: {cut!r:.100} is not supported (known: {', '.join(CUTS)})")
    return cut


def _tokens(file: GgufFile) -> tuple[list[str], list[int]]:
    tokens = file.fields.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise TrainingError(f"{file.path}: tokenizer.ggml.tokens is not a list of texts")
    if len(set(tokens)) < len(tokens):
        raise TrainingError(f"{file.path}: tokenizer.ggml.tokens: a token comes twice")
    types = file.fields.get("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    if not isinstance(types, list) or len(types) != len(tokens):
        raise TrainingError(f"{file.path}: tokenizer.ggml.token_type is not a list of as many numbers as tokens")
    return tokens, types


def _added(tokens: list[str], types: list[int], cut: str) -> list[dict[str, Any]]:
    """Tokens that are found before a text is cut."""
    special = (CONTROL,) if cut else (CONTROL, UNKNOWN)
    return [
        {"id": place, "content": token, "special": types[place] in special, "single_word": False, "lstrip": False}
        | {"rstrip": False, "normalized": False}
        for place, token in enumerate(tokens)
        if types[place] in (*special, USER)
    ]


def _byte_level(file: GgufFile, tokens: list[str], cut: dict[str, Any]) -> dict[str, Any]:
    bpe: dict[str, Any] = {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False}
    bpe |= {"continuing_subword_prefix": None, "end_of_word_suffix": None}
    bpe |= {"ignore_merges": cut.get("ignore_merges", False), "merges": _merges(file)}
    bpe["vocab"] = {token: place for place, token in enumerate(tokens)}
    before = {"normalizer": cut.get("normalizer"), "pre_tokenizer": cut["pre_tokenizer"]}
    return {**before, "decoder": _level(use_regex=True), "model": bpe}


def _pieces(file: GgufFile, tokens: list[str], types: list[int]) -> dict[str, Any]:
    scores = file.fields.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise TrainingError(f"{file.path}: tokenizer.ggml.scores is not a list of as many numbers as tokens")
    if not all(isinstance(score, float) and math.isfinite(score) for score in scores):
        raise TrainingError(f"{file.path}: tokenizer.ggml.scores: a score is no number")
    return pieces.tokenizer(tokens, types, scores, bool(file.fields.get("tokenizer.ggml.add_space_prefix", True)))


def _merges(file: GgufFile) -> list[list[str]]:
    merges = file.fields.get("tokenizer.ggml.merges")
    if not isinstance(merges, list) or not all(isinstance(m, str) and len(m.split(" ")) == 2 for m in merges):
        raise TrainingError(f"{file.path}: tokenizer.ggml.merges is not a list of pairs")
    return [merge.split(" ") for merge in merges]


def _token(file: GgufFile, name: str, tokens: list[str]) -> int | None:
    token = file.fields.get(f"tokenizer.ggml.{name}")
    if token is not None and not (isinstance(token, int) and 0 <= token < len(tokens)):
        raise TrainingError(f"{file.path}: tokenizer.ggml.{name}: {token!r:.100} is no token")
    return token


def _starts(file: GgufFile, cut: str, tokens: list[str]) -> tuple[int, ...]:
    """What a prompt begins with; files of Llama 2 and 3 that do not say mean that it does begin so."""
    if file.fields.get("tokenizer.ggml.add_eos_token"):
        raise TrainingError("tokenizer.ggml.add_eos_token: True is not supported")
    bos = _token(file, "bos_token_id", tokens)
    added = file.fields.get("tokenizer.ggml.add_bos_token", cut in ("", "llama-bpe"))
    return (bos,) if added and bos is not None else ()
