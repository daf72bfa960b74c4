"""The tokenizer that is rebuilt from a GGUF file's metadata is the one that it was made of."""

import json

import pytest
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, Split

from tests.training.importing import ggufs
from training.importing.gguf_file import GgufFile
from training.importing.gguf_text import CUTS, read_text

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = [
    "The theory, then: it's 1234567 things!\n\n  and\tmore  ",
    "ünïcödé e\u0301 日本語 🙂 'LL",
    "",
    " ",
    "3.14159 x2 a_b\r\n\r\n.",
]


def published(pre):
    """What the model's own tokenizer.json has before BPE."""
    level = ByteLevel(add_prefix_space=False, use_regex=False)
    return {
        "gpt-2": ByteLevel(add_prefix_space=False),
        "smollm": pre_tokenizers.Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]),
        "llama-bpe": pre_tokenizers.Sequence([Split(_regex(LLAMA3), "isolated"), level]),
        "qwen2": pre_tokenizers.Sequence([Split(_regex(LLAMA3.replace("{1,3}", "")), "isolated"), level]),
    }[pre]


def _regex(pattern):
    from tokenizers import Regex

    return Regex(pattern)


def original(tokenizer, pre):
    found = Tokenizer.from_str(tokenizer.decode())
    assert isinstance(found.model, BPE)
    found.pre_tokenizer = published(pre)
    if pre == "qwen2":
        found.normalizer = normalizers.NFC()
    return found


@pytest.fixture
def rebuilt(tmp_path):
    def rebuild(tokenizer, **changes):
        architecture = changes.pop("architecture", "llama")
        metadata = ggufs.text(tokenizer, **changes)
        return read_text(GgufFile(ggufs.write(tmp_path / "x.gguf", architecture, metadata, {})))

    return rebuild


@pytest.mark.parametrize("pre", CUTS)
def test_tokens_are_the_same(pre, rebuilt, tokenizer):
    wanted, got = original(tokenizer, pre), Tokenizer.from_str(rebuilt(tokenizer, pre=pre).tokenizer.decode())
    special = wanted.id_to_token(0)
    for text in [*TEXTS, f"a{special}b"]:
        ids = wanted.encode(text).ids
        assert got.encode(text).ids == ids
        assert got.decode(ids) == wanted.decode(ids)
        assert got.decode(ids, skip_special_tokens=False) == wanted.decode(ids, skip_special_tokens=False)
    assert got.get_vocab() == wanted.get_vocab()


def test_a_file_without_a_cut_is_gpt2_or_nothing(rebuilt, tokenizer):
    found = rebuilt(tokenizer, pre=None, architecture="gpt2").tokenizer
    assert found == rebuilt(tokenizer, pre="gpt-2").tokenizer


def test_ends_beginnings_and_the_template_are_found(rebuilt, tokenizer):
    own = Tokenizer.from_str(tokenizer.decode())
    own.add_special_tokens(["<|im_end|>", "<|endoftext|>", "<s>"])
    end, more, start = (own.token_to_id(token) for token in ("<|im_end|>", "<|endoftext|>", "<s>"))
    fields = json.loads(own.to_str())
    fields["model"]["vocab"] |= {token["content"]: token["id"] for token in fields["added_tokens"]}
    content = json.dumps(fields).encode()
    found = rebuilt(content, eos_token_id=end, bos_token_id=start, add_bos_token=True, eot_token_id=5)
    assert (found.eos, found.starts, found.template) == (end, (start,), None)
    assert set(found.stops) == {5, more}
    assert rebuilt(content, bos_token_id=start).starts == ()
    assert rebuilt(content, bos_token_id=start, pre="llama-bpe").starts == (start,)
    assert rebuilt(content, bos_token_id=start, pre="llama-bpe", add_bos_token=False).starts == ()
