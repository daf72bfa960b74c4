"""A tokenizer of SentencePiece's kind, as the import makes it of a GGUF file: words, bytes for what no word covers."""

import json

from training.importing import pieces

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPECIALS = ["<unk>", "<s>", "</s>"]
WORDS = ["\u2581", "\u2581\u2581", "\u2581the", "the", "x", "a", "\u00e9", "\ufffd", "\u2581x\u2581", "[mark]", ""]
TOKENS = [*SPECIALS, *BYTES, *WORDS]
TYPES = [pieces.UNKNOWN, pieces.CONTROL, pieces.CONTROL, *[pieces.BYTE] * 256, *[1] * len(WORDS)]


def byte(number):
    """The token of a byte."""
    return len(SPECIALS) + number


def ids(*names):
    return [TOKENS.index(name) for name in names]


SPEAKING = ids(*SPECIALS, *WORDS)  # what is no byte


def tokenizer_file(prefix=True) -> bytes:
    """The `tokenizer.json`; with a `prefix`, the space before a text is none of it."""
    fields = pieces.tokenizer(TOKENS, TYPES, [-float(i) for i in range(len(TOKENS))], prefix)
    rules = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": TOKENS.index(t), "content": t, "special": t in SPECIALS, **rules} for t in [*SPECIALS, "[mark]"]]
    shared = {"version": "1.0", "truncation": None, "padding": None, "post_processor": None, "added_tokens": added}
    return json.dumps(shared | fields).encode()
