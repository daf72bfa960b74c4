"""A tokenizer beside the weights is verified like them and is part of what the digest vouches for."""

import json

import pytest
import torch

from models import checkpoint
from models.checkpoint import CheckpointError
from models.gpt import GPT

SMALL = {"vocab_size": 8, "max_length": 8, "width": 8, "layers": 1, "heads": 2}
CONTENT = b'{"model": {"type": "BPE"}}'


@pytest.fixture
def save(tmp_path):
    def write(name, **changes):
        torch.manual_seed(0)
        return checkpoint.save(tmp_path / name, GPT(**SMALL), architecture="gpt", config=SMALL, **changes)

    return write


def test_what_was_saved_comes_back(save, tmp_path):
    written = save("small", tokenizer=CONTENT, eos_token_id=3)
    loaded = checkpoint.load(tmp_path / "small").config
    assert loaded == written
    assert (loaded.tokenizer.size, loaded.tokenizer.eos_token_id) == (len(CONTENT), 3)
    assert (tmp_path / "small" / "tokenizer.json").read_bytes() == CONTENT


def test_another_tokenizer_is_another_model(save):
    digests = {
        save("a").digest,
        save("b", tokenizer=CONTENT, eos_token_id=3).digest,
        save("c", tokenizer=CONTENT, eos_token_id=4).digest,
        save("d", tokenizer=CONTENT + b" ", eos_token_id=3).digest,
    }
    assert len(digests) == 4
    assert save("e", tokenizer=CONTENT, eos_token_id=3).digest in digests


@pytest.mark.parametrize("content", [None, CONTENT[:-1], CONTENT.replace(b"BPE", b"bpe")])
def test_a_missing_or_changed_tokenizer_is_refused(save, tmp_path, content):
    save("small", tokenizer=CONTENT)
    path = tmp_path / "small" / "tokenizer.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: (missing|\d+ bytes|sha256)"):
        checkpoint.load(tmp_path / "small")


@pytest.mark.parametrize(
    "said", [3, "x", {"size": 1}, {"sha256": "x", "size": "1"}, {"sha256": "x", "size": 1, "y": 2}]
)
def test_a_malformed_entry_is_refused(save, tmp_path, said):
    save("small", tokenizer=CONTENT)
    path = tmp_path / "small" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer": said}))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        checkpoint.load(tmp_path / "small")
