"""SentencePiece's tokenizer, rebuilt, against its rule: join the neighbours whose joint piece scores highest."""

import itertools

import pytest
from tokenizers import Tokenizer

from tests.training.importing import ggufs
from training.errors import TrainingError
from training.importing.gguf_file import GgufFile
from training.importing.gguf_text import read_text

WORDS = [
    "\u2581the",
    "\u2581th",
    "the",
    "th",
    "he",
    "\u2581t",
    "\u2581s",
    "ea",
    "sea",
    "at",
    "hat",
    "\u2581hat",
    "\u2581\u2581",
]
LETTERS = ["\u2581", *"aehstx\u00e9"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TOKENS = ["<unk>", "<s>", "</s>", *BYTES, *WORDS, *LETTERS]
TYPES = [2, 3, 3, *[6] * 256, *[1] * (len(WORDS) + len(LETTERS))]
SCORES = [0.0] * 259 + [-float(i) for i in range(len(WORDS) + len(LETTERS))]
TEXTS = ["the sea", "that hat  eats the sea", "x", "", " the", "\u00e9t\u00e9 \u65e5 \U0001f642", "thethe heat"]


@pytest.fixture
def rebuilt(tmp_path):
    def rebuild(**changes):
        fields = {"model": "llama", "tokens": TOKENS, "token_type": TYPES, "scores": SCORES}
        fields |= {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, **changes}
        metadata = {f"tokenizer.ggml.{name}": value for name, value in fields.items()}
        return read_text(GgufFile(ggufs.write(tmp_path / "x.gguf", "llama", metadata, {})))

    return rebuild


def by_rule(text):
    """Ids by SentencePiece's definition."""
    parts = list("\u2581" + text.replace(" ", "\u2581")) if text else []
    score = dict(zip(TOKENS, SCORES, strict=True))
    while True:
        pairs = [(score[a + b], -i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in score]
        if not pairs:
            break
        place = -max(pairs)[1]
        parts[place : place + 2] = ["".join(parts[place : place + 2])]
    known = [[part] if part in score else [f"<0x{byte:02X}>" for byte in part.encode()] for part in parts]
    return [TOKENS.index(piece) for pieces in known for piece in pieces]


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_those_of_the_rule_and_come_back(text, rebuilt):
    found = rebuilt()
    tokenizer = Tokenizer.from_str(found.tokenizer.decode())
    ids = tokenizer.encode(text).ids
    assert ids == by_rule(text)
    assert tokenizer.decode(ids) == text
    assert (found.eos, found.starts) == (2, (1,))


def test_special_tokens_are_whole_and_a_prefix_may_be_left_out(rebuilt):
    found = rebuilt(add_space_prefix=False, add_bos_token=False)
    tokenizer = Tokenizer.from_str(found.tokenizer.decode())
    assert tokenizer.encode("the</s>").tokens == ["the", "</s>"]
    assert found.starts == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scores": SCORES[1:]}, "tokenizer.ggml.scores is not a list"),
        ({"scores": [float("nan"), *SCORES[1:]]}, "a score is no number"),
        ({"scores": [1] * len(TOKENS)}, "a score is no number"),
        ({"token_type": [1] * len(TOKENS)}, "no token stands for what is unknown"),
        ({"tokens": ["a" * 1025, *TOKENS[1:]]}, "a token of 1025 characters"),
    ],
)
def test_what_is_wrong_is_named(changes, said, rebuilt):
    with pytest.raises(TrainingError, match=said):
        rebuilt(**changes)
