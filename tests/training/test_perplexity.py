"""Perplexity of the served arithmetic, on texts whose perplexity is known."""

import json
import math

import pytest
import torch

from models import checkpoint
from models.gpt import GPT
from training import perplexity
from training.errors import TrainingError
from training.perplexity import Perplexity, main, measure, read_sample
from training.tokenizer import SMALLEST, train_tokenizer

SIZES = {"vocab_size": SMALLEST, "max_length": 32, "width": 64, "layers": 1, "heads": 2}
TEXT = "To be, or not to be: that is the question. " * 8


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    tokenizer = train_tokenizer([], SMALLEST).to_str().encode()
    place = tmp_path / "writer"
    checkpoint.save(place, GPT(**SIZES), architecture="gpt", config=SIZES, tokenizer=tokenizer, eos_token_id=0)
    return place


class Shifted(torch.nn.Module):
    """Gives the token after the last one probability 1 / 2, and the others the rest; notes what it was shown."""

    vocab_size, max_length = SMALLEST, 32

    def init_state(self, slots):
        return []

    def prefill(self, tokens, starts, lengths, slots, state):
        assert (starts, lengths) == ([0] * len(tokens), [tokens.shape[1]] * len(tokens))
        state.append(tokens)
        return self._after(tokens[:, -1])

    def step(self, tokens, positions, span, state):
        state.append(tokens[:, None])
        assert torch.equal(positions, torch.full_like(tokens, torch.cat(state, 1).shape[1] - 1))
        assert span > positions.max()
        return self._after(tokens)

    def _after(self, tokens):
        chances = torch.full((len(tokens), SMALLEST), 0.5 / (SMALLEST - 1))
        chances[torch.arange(len(tokens)), tokens + 1] = 0.5
        return chances.log()


def test_every_token_but_the_first_half_is_predicted_once(text):
    tokenizer = train_tokenizer([], SMALLEST)
    sample = read_sample(text, tokenizer, 16, 1000)
    ids = tokenizer.encode(TEXT).ids
    assert sample.windows[:, 16:].flatten().tolist() == ids[16 : 16 + 16 * len(sample.windows)]
    assert sample.windows[:, :16].flatten().tolist() == ids[: 16 * len(sample.windows)]
    assert (len(sample.windows), sample.size) == (20, 16 * 20)
    assert read_sample(text, tokenizer, 16, 40).size == 32


def test_bytes_are_those_of_the_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abcd" + "é" * 40)
    assert read_sample(path, train_tokenizer([], SMALLEST), 4, 8).size == 8


def test_known_probabilities(text):
    tokenizer = train_tokenizer([], SMALLEST)
    sample = read_sample(text, tokenizer, 16, 1000)
    ids = sample.windows.flatten()
    windows = torch.arange(32).expand(20, 32)  # always the one after the last
    certain = measure(Shifted(), perplexity.Sample(windows, 640, "", ""), "bf16")
    assert certain.perplexity == pytest.approx(2)
    assert certain.bits_per_byte == pytest.approx(0.5)
    assert not ((ids[1:] - ids[:-1]) == 1).all()
    assert measure(Shifted(), sample, "bf16").perplexity > 100


def test_the_rule():
    reference = Perplexity("bf16", 10.0, 1.0)
    assert Perplexity("int4", 10.29, 1.0).may_be_served(reference)
    assert not Perplexity("int4", 10.31, 1.0).may_be_served(reference)


def test_a_folder_in_all_precisions(folder, text, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert main([str(folder), "--text", str(text), "--dtype", "fp32", "int8", "int4", "--json", str(out)]) == 0
    record = json.loads(out.read_text())
    assert list(record["precisions"]) == ["bf16", "fp32", "int8", "int4"]
    for found in record["precisions"].values():
        assert found["perplexity"] == pytest.approx(SMALLEST, rel=0.2), "it has learnt nothing"
        assert found["times_bf16"] == pytest.approx(1, abs=0.02)
        assert found["bits_per_byte"] == pytest.approx(math.log2(found["perplexity"]), abs=1e-3), "a token is a byte"
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 4
    assert said[0].startswith("writer bf16: perplexity ")
    assert checkpoint.read_config(folder).card == {}
    assert main([str(folder), "--text", str(text), "--dtype", "int8", "--card"]) == 0
    assert list(checkpoint.read_config(folder).card["precision"]["precisions"]) == ["bf16", "int8"]


def test_what_costs_too_much_ends_with_an_error(folder, text, monkeypatch, capsys):
    monkeypatch.setattr(perplexity, "LIMIT", 0.5)
    assert main([str(folder), "--text", str(text), "--dtype", "int4", "--against", "fp32"]) == 1
    assert "writer: fp32, int4 costs more than -50 % of perplexity" in capsys.readouterr().err


def test_wrong_texts(folder, tmp_path, capsys):
    short, binary = tmp_path / "short.txt", tmp_path / "binary.txt"
    short.write_text("too short")
    binary.write_bytes(b"\xff\xfe")
    for path, cause in (
        (short, "9 tokens; 32 or more are needed"),
        (binary, "unreadable"),
        (tmp_path / "none.txt", "unreadable"),
    ):
        assert main([str(folder), "--text", str(path), "--dtype", "bf16"]) == 1
        assert f"{path}: {cause}" in capsys.readouterr().err
    with pytest.raises(TrainingError):
        read_sample(short, train_tokenizer([], SMALLEST), 16, 100)
