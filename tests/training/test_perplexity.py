"""Perplexity of the served arithmetic, on texts whose perplexity is known."""

import json
import math

import pytest
import torch

from models import checkpoint
from models.config import read_config, with_card, write_config
from models.gpt import GPT
from training import card as cards
from training import perplexity, text_card
from training.data_recipe import TextRecipe
from training.errors import TrainingError
from training.perplexity import Perplexity, main, measure, read_sample, read_texts
from training.text import Work, load_corpus
from training.tokenizer import SMALLEST, train_tokenizer

SIZES = {"vocab_size": SMALLEST, "max_length": 32, "width": 64, "layers": 1, "heads": 2}
CARD = {
    "description": "Writes.",
    "license": "MIT",
    "recipe": "tiny.toml",
    "commit": None,
    "steps": 1,
    "seconds": 1,
    "machine": "abacus",
    "metrics": {"bits_per_byte": 8.0},
    "evaluation": {"bytes": 1, "window": 32, "written": 4, "peer": ""},
}
WRITTEN = ["one\n", "\n\ntwo\n\n", "", "four"]
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


def test_every_token_but_the_first_half_is_predicted_once():
    tokenizer, works = train_tokenizer([], SMALLEST), [Work("question", TEXT)]
    sample = read_sample(works, tokenizer, 16, 1000)
    ids = tokenizer.encode(TEXT).ids
    assert sample.windows[:, 16:].flatten().tolist() == ids[16 : 16 + 16 * len(sample.windows)]
    assert sample.windows[:, :16].flatten().tolist() == ids[: 16 * len(sample.windows)]
    assert (len(sample.windows), sample.size) == (20, 16 * 20)
    assert read_sample(works, tokenizer, 16, 40).size == 32


def test_texts_stand_alone():
    tokenizer, works = train_tokenizer([], SMALLEST), [Work("a", TEXT), Work("b", TEXT[::-1])]
    both = read_sample(works, tokenizer, 16, 40)
    assert both.windows.tolist() == [
        row for work in works for row in read_sample([work], tokenizer, 16, 40).windows.tolist()
    ]
    assert (both.size, list(both.texts)) == (64, ["a", "b"])


def test_bytes_are_those_of_the_text():
    assert read_sample([Work("text", "abcd" + "é" * 40)], train_tokenizer([], SMALLEST), 4, 8).size == 8


def test_known_probabilities():
    sample = read_sample([Work("question", TEXT)], train_tokenizer([], SMALLEST), 16, 1000)
    ids = sample.windows.flatten()
    windows = torch.arange(32).expand(20, 32)  # always the one after the last
    certain = measure(Shifted(), perplexity.Sample(windows, 640, {}), "bf16")
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
        assert found["ratio"] == pytest.approx(1, abs=0.02)
        assert found["bits_per_byte"] == pytest.approx(math.log2(found["perplexity"]), abs=1e-3), "a token is a byte"
    assert (record["against"], list(record["texts"])) == ("bf16", ["text.txt"])
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 4
    assert said[0].startswith("writer bf16: perplexity ")
    assert read_config(folder).card == {}
    assert main([str(folder), "--text", str(text), "--dtype", "int8", "--card"]) == 0
    assert list(read_config(folder).card["precision"]["precisions"]) == ["bf16", "int8"]


def test_what_costs_too_much_ends_with_an_error(folder, text, monkeypatch, capsys):
    monkeypatch.setattr(perplexity, "LIMIT", 0.5)
    assert main([str(folder), "--text", str(text), "--dtype", "int4", "--against", "fp32"]) == 1
    assert "writer: fp32, int4 costs more than -50 % of perplexity" in capsys.readouterr().err


def test_wrong_texts(folder, tmp_path, capsys):
    short, binary = tmp_path / "short.txt", tmp_path / "binary.txt"
    short.write_text("too short")
    binary.write_bytes(b"\xff\xfe")
    for path, cause in (
        (short.name, "9 tokens; 32 or more are needed"),
        (binary, "unreadable"),
        (tmp_path / "none.txt", "unreadable"),
    ):
        assert main([str(folder), "--text", str(tmp_path / path), "--dtype", "bf16"]) == 1
        assert f"{path}: {cause}" in capsys.readouterr().err
    with pytest.raises(TrainingError):
        read_sample(read_texts([short]), train_tokenizer([], SMALLEST), 16, 100)
    assert main([str(folder), "--dtype", "bf16"]) == 1
    assert "its card does not name its training data" in capsys.readouterr().err


def test_the_card_s_held_out_works_are_the_text_unless_told(folder, tmp_path):
    data = tmp_path / "works"
    data.mkdir()
    for name in ("hamlet", "lear", "timon"):
        (data / f"{name}.txt").write_text(f"{name} " + TEXT)
    recipe = TextRecipe(
        "text", "plays", str(data), "MIT", "*.txt", ("hamlet",), ("lear", "timon"), "bytes", SMALLEST, 32
    )
    card = {**CARD, "training_data": load_corpus(recipe).card()}
    before = read_config(folder)
    write_config(folder, with_card(before, card))
    (folder / text_card.SAMPLES_FILE).write_text(text_card.all_samples(WRITTEN))
    assert main([str(folder), "--data", str(data), "--dtype", "int8", "--tokens", "40", "--card"]) == 0
    config = read_config(folder)
    record = config.card["precision"]
    assert (list(record["texts"]), record["tokens"]) == (["lear", "timon"], 64)
    assert config.digest == before.digest
    assert {name: value for name, value in config.card.items() if name != "precision"} == card
    page = (folder / "README.md").read_text()
    assert page == cards.render("writer", config, WRITTEN)
    for dtype, found in record["precisions"].items():
        assert f"| {dtype} | {found['perplexity']:.3f} | {100 * (found['ratio'] - 1):+.2f} % |" in page
    assert "computed in float32" in page
