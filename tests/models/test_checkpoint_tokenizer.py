"""A tokenizer beside the weights is verified like them and is part of what the digest vouches for."""

import dataclasses
import hashlib
import json

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file

from models import checkpoint
from models.config import TemplateFile, write_config
from models.errors import CheckpointError
from models.files import TEMPLATE_FILE
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


def write(folder, config, **changes):
    write_config(folder, dataclasses.replace(config, **changes))


def test_lists_of_tokens_and_a_chat_template_come_back_and_count(save, tmp_path):
    folder = tmp_path / "small"
    config = save("small", tokenizer=CONTENT, eos_token_id=3)
    tokenizer = checkpoint.write_tokenizer(folder, CONTENT, 3, (5, 6), (1,))
    template = checkpoint.write_template(folder, "{{ messages }} ä")
    digests = {config.digest}
    for changes in ({"tokenizer": tokenizer}, {"chat_template": template}):
        write(folder, config, **changes)
        loaded = checkpoint.load(folder).config
        assert loaded == dataclasses.replace(config, **changes)
        digests.add(loaded.digest)
    swapped = dataclasses.replace(tokenizer, stop_token_ids=(1,), start_token_ids=(5, 6))
    digests.add(dataclasses.replace(config, tokenizer=swapped).digest)
    digests.add(dataclasses.replace(config, chat_template=checkpoint.write_template(folder, "x")).digest)
    assert len(digests) == 5


def test_a_folder_without_them_says_nothing_of_them(save, tmp_path):
    """Weights that were published before keep their digest and their file."""
    config = save("small", tokenizer=CONTENT, eos_token_id=3)
    raw = json.loads((tmp_path / "small" / "config.json").read_text())
    assert raw["tokenizer"] == {"sha256": config.tokenizer.sha256, "size": len(CONTENT), "eos_token_id": 3}
    assert "chat_template" not in raw
    parts = ["gpt", SMALL, config.sha256, [config.tokenizer.sha256, 3]]
    assert config.digest == hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize("content", [None, b"", b"{{ x }", b"{{ y }}"])
def test_a_missing_or_changed_template_is_refused(save, tmp_path, content):
    folder = tmp_path / "small"
    write(folder, save("small"), chat_template=checkpoint.write_template(folder, "{{ x }}"))
    path = folder / TEMPLATE_FILE
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja: (missing|\d+ bytes|sha256)"):
        checkpoint.load(folder)


@pytest.mark.parametrize(("content", "said"), [(b"\xff", "unreadable"), (b"x" * ((1 << 20) + 1), "more than 1048576")])
def test_a_template_that_is_no_text_or_too_large_is_refused(save, tmp_path, content, said):
    folder = tmp_path / "small"
    template = TemplateFile(hashlib.sha256(content).hexdigest(), len(content))
    write(folder, save("small"), chat_template=template)
    (folder / TEMPLATE_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("tokenizer", {"sha256": "x", "size": 1, "stop_token_ids": [-1]}),
        ("tokenizer", {"sha256": "x", "size": 1, "stop_token_ids": 3}),
        ("tokenizer", {"sha256": "x", "size": 1, "start_token_ids": ["a"]}),
        ("tokenizer", {"sha256": "x", "size": 1, "start_token_ids": {"a": 1}}),
        ("chat_template", "x"),
        ("chat_template", {"sha256": "x"}),
        ("chat_template", {"sha256": "x", "size": "1"}),
        ("chat_template", {"sha256": 1, "size": 1}),
    ],
)
def test_malformed_lists_and_templates_are_refused(save, tmp_path, field, said):
    save("small", tokenizer=CONTENT)
    path = tmp_path / "small" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: said}))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        checkpoint.load(tmp_path / "small")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_may_stay_as_they_are_stored(save, tmp_path, dtype):
    folder = tmp_path / "small"
    config = save("small")
    tensors = {name: t.to(dtype) for name, t in load_file(folder / "model.safetensors").items()}
    data = safetensors.torch.save(tensors)
    (folder / "model.safetensors").write_bytes(data)
    write(folder, config, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    stored, wide = checkpoint.load(folder, as_stored=True).model, checkpoint.load(folder).model
    assert {p.dtype for p in stored.parameters()} == {dtype}
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in stored.parameters())
    assert all(torch.equal(a.float(), b) for a, b in zip(stored.parameters(), wide.parameters(), strict=True))
    assert stored.rotary.cos.dtype == torch.float32
    tokens = torch.arange(8)[None]
    torch.testing.assert_close(stored.float()(tokens), wide(tokens))


def test_loading_draws_no_random_numbers(save, tmp_path):
    save("small")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    checkpoint.load(tmp_path / "small")
    assert torch.equal(torch.get_rng_state(), before)
