"""From a tiny run to a weights folder that is loaded, measured and gated like a large one."""

import json

import pytest

from models import checkpoint
from training import text_card
from training.errors import TrainingError
from training.evaluate import main as evaluate_main
from training.fluency import METRICS, PROMPT
from training.publish import publish
from training.writer import load_writer

QUICK = {"steps": 12, "every": {"log": 6, "evaluate": 12, "snapshot": 12}}


@pytest.fixture
def train(make_run, recipe, raw_recipe, tmp_path):
    """Train a tiny language model and publish it under this name; returns its folder."""

    def go(name, peer="", data=None, **changes):
        objective = raw_recipe("language")["objective"] | {"peer": str(peer)}
        export = tmp_path / "export" / name
        made = recipe("language", **{**QUICK, **changes}, export=str(export), objective=objective)
        run = make_run(made, name)
        run.start()
        run.train(lambda: run.finished, lambda progress, values: None)
        publish(run, f"{name}.toml")
        return export

    return go


def test_the_folder_holds_all_that_is_served_and_said(train, capsys):
    folder = train("tiny", peer=train("peer", steps=2))
    files = {path.name for path in folder.iterdir()}
    assert files == {"config.json", "model.safetensors", "tokenizer.json", "README.md", "samples.txt"}
    loaded = checkpoint.load(folder)
    assert loaded.config.tokenizer.eos_token_id == 0
    card = loaded.config.card
    assert set(card["metrics"]) == set(METRICS) - {"origin_bits_per_byte"}
    assert card["metrics"]["margin"] > 0
    assert card["training_data"]["held_out"] == ["tragedy"]
    readme = (folder / "README.md").read_text()
    for part in ("bits_per_byte", "tragedy", "Seed 2:", "the same works. Halves", repr(PROMPT), "Temperature 1.2:"):
        assert part in readme
    assert "picture" not in readme
    assert (folder / "samples.txt").read_text().count("===== seed") == 16
    assert "wrote " in capsys.readouterr().out


def test_evaluating_again_gives_the_same(train, text_folder, capsys):
    folder = train("tiny", peer=train("peer", steps=2))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert evaluate_main([str(folder), "--data", str(text_folder)]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "peer_bits_per_byte" in capsys.readouterr().out


def test_a_missed_gate_exports_nothing(train, tmp_path):
    with pytest.raises(TrainingError, match=r"bits_per_byte is .*max 0.5 wanted; nothing exported"):
        train("tiny", gates={"bits_per_byte": {"max": 0.5}})
    assert not (tmp_path / "export" / "tiny").exists()


def test_other_data_are_refused(train, text_folder, tmp_path, capsys):
    folder = train("tiny")
    for path in text_folder.iterdir():
        (tmp_path / path.name).write_text(path.read_text() + "more\n")
    assert evaluate_main([str(folder), "--data", str(tmp_path), "--dry-run"]) == 1
    assert evaluate_main([str(folder), "--dry-run"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert "not the data that tiny was trained on" in errors[0]
    assert "say with --data where works is" in errors[1]


def test_a_peer_of_another_split_is_refused(train, raw_recipe):
    peer = train("peer", steps=2)
    config = json.loads((peer / "config.json").read_text())
    config["card"]["training_data"]["held_out"] = ["sonnets"]
    (peer / "config.json").write_text(json.dumps(config))
    with pytest.raises(TrainingError, match="peer: was trained on other data, or on another split"):
        train("tiny", peer=peer)


def test_a_folder_without_a_sound_tokenizer_is_refused(train, judge_folder, tmp_path):
    with pytest.raises(TrainingError, match=r"can't be loaded: .*a language recipe trains one"):
        load_writer(tmp_path / "nowhere")
    folder = train("tiny")
    loaded = checkpoint.load(folder)
    checkpoint.save(folder, loaded.model, architecture="gpt", config=loaded.config.config)
    with pytest.raises(TrainingError, match=r"tiny: has no tokenizer\.json"):
        load_writer(folder)
    checkpoint.save(folder, loaded.model, architecture="gpt", config=loaded.config.config, tokenizer=b"{}")
    with pytest.raises(TrainingError, match=r"tokenizer\.json: unreadable"):
        load_writer(folder)


def test_every_metric_has_a_meaning():
    assert set(METRICS) == text_card.MEANINGS.keys()
