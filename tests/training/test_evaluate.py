import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import checkpoint
from models.config import read_config, with_card, write_config
from models.gan import ConvGenerator
from training import card as cards
from training import quality
from training.data import DEFAULT_PATHS, Split
from training.errors import TrainingError
from training.evaluate import main
from training.measurement import CURVE
from training.picture_evaluation import evaluate
from training.provenance import dataset_of
from training.weights import find_folder, networks

ROOT = Path(__file__).parents[2]
CONFIG = {"latent_dim": 4, "num_classes": 3, "embedding_dim": 4, "channels": [8, 8], "base_size": 4}
LABELS = ("left", "right", "bottom")


@pytest.fixture
def model_folder(tmp_path, dataset, monkeypatch):
    """weights/tiny below the current folder, with a card that names its data and one gate."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    card = {
        "description": "Noise.",
        "license": "Apache-2.0",
        "training_data": dataset.card(),
        "recipe": "tiny.toml",
        "commit": None,
        "steps": 0,
        "seconds": 0,
        "machine": "abacus",
        "gates": {"recall": {"max": 0.5}},
        "metrics": {},
    }
    folder = tmp_path / "weights" / "tiny"
    checkpoint.save(folder, ConvGenerator(**CONFIG), architecture="conv-gan", config=CONFIG, labels=LABELS, card=card)
    return folder


def options(judge_folder, data_folder, *more):
    return ["tiny", "--judge", str(judge_folder), "--data", str(data_folder), "--count", "48", *more]


def change_card(folder, **changes):
    config = read_config(folder)
    write_config(folder, with_card(config, {**config.card, **changes}))


def test_metrics_go_into_the_card_and_the_readme(model_folder, judge_folder, data_folder, capsys):
    before = read_config(model_folder)
    assert main(options(judge_folder, data_folder)) == 0
    after = checkpoint.load(model_folder).config
    assert after.digest == before.digest
    assert after.labels == before.labels
    metrics = after.card["metrics"]
    assert 0 <= metrics["class_accuracy"] <= 1
    assert metrics["fd_clf"] > metrics["fd_clf_floor"]
    assert after.card["evaluation"]["count"] == 48
    assert f"| fd_clf | {metrics['fd_clf']:.4g} |" in (model_folder / "README.md").read_text()
    assert (model_folder / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert f"{metrics['fd_clf']:.4g}" in capsys.readouterr().out


def test_measuring_twice_gives_the_same_files(model_folder, judge_folder, data_folder):
    main(options(judge_folder, data_folder))
    first = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    torch.manual_seed(77)
    main(options(judge_folder, data_folder))
    assert {path.name: path.read_bytes() for path in model_folder.iterdir()} == first


def test_a_dry_run_writes_nothing(model_folder, judge_folder, data_folder, capsys):
    before = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    assert main(options(judge_folder, data_folder, "--dry-run")) == 0
    assert {path.name: path.read_bytes() for path in model_folder.iterdir()} == before
    assert "class_accuracy" in capsys.readouterr().out


def test_a_report_holds_what_was_measured(model_folder, judge_folder, data_folder, tmp_path):
    change_card(model_folder, recipe="tiny.toml, steps = 2")
    before = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    run = tmp_path / "runs" / "tiny"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 1, "g_loss": 0.5}\n{"step": 2, "g_loss": 0.25}\n')
    more = ["--dry-run", "--report", "page.html", "--truncations", "0.5,1"]
    assert main(options(judge_folder, data_folder, *more)) == 0
    assert {path.name: path.read_bytes() for path in model_folder.iterdir()} == before
    page, found = Path("page.html").read_text(), json.loads(Path("page.json").read_text())
    assert "g_loss" in page
    assert [point["truncation"] for point in found["truncation_curve"]] == [0.5, 1.0]
    assert {name: found["truncation_curve"][1][name] for name in CURVE} == {n: found["metrics"][n] for n in CURVE}
    assert found["truncation_curve"][0]["fd_clf"] != found["metrics"]["fd_clf"]
    assert list(found["class_accuracies"]) == list(LABELS)
    assert f'<td>fd_clf</td><td class="n">{found["metrics"]["fd_clf"]:.4g}</td>' in page


def test_the_figures_alone_can_be_had(model_folder, judge_folder, data_folder):
    assert main(options(judge_folder, data_folder, "--dry-run", "--json", "figures.json")) == 0
    assert json.loads(Path("figures.json").read_text())["evaluation"]["count"] == 48
    assert not Path("figures.html").exists()


def test_a_classifier_has_a_report_too(judge_folder, dataset, tmp_path, data_folder, capsys):
    card = {"training_data": dataset.card(), "metrics": {}, "recipe": "judge.toml"}
    config = with_card(read_config(judge_folder, networks()), card)
    folder = tmp_path / "judge"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((judge_folder / "model.safetensors").read_bytes())
    write_config(folder, replace(config, labels=LABELS))
    more = ["--data", str(data_folder), "--dry-run", "--report", str(tmp_path / "page.html")]
    assert main([str(folder), *more]) == 0
    assert "<td>accuracy</td>" in (tmp_path / "page.html").read_text()
    assert main([str(folder), *more, "--truncations", "0.5"]) == 1
    assert "judge makes no pictures: --truncations" in capsys.readouterr().err


def test_the_standard_fid_takes_a_network_of_the_users(model_folder, judge_folder, data_folder, tiny_inception):
    more = ["--dry-run", "--json", "figures.json", "--inception", str(tiny_inception)]
    assert main(options(judge_folder, data_folder, *more)) == 0
    found = json.loads(Path("figures.json").read_text())
    assert found["metrics"]["fid_inception"] > 0
    assert len(found["evaluation"]["inception"]) == 16


def test_a_missed_gate_is_status_one(model_folder, judge_folder, data_folder, capsys):
    change_card(model_folder, gates={"class_accuracy": {"min": 1.01}})
    assert main(options(judge_folder, data_folder)) == 1
    assert "tiny: gates missed: class_accuracy is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({}, ["--count", "3"], "3 pictures: at least 10"),
        ({}, ["--threads", "0"], "--threads 0"),
        ({}, ["--report", "nowhere/page.html"], "--report 'nowhere/page.html': not a file"),
        ({}, ["--inception", "nowhere.pt"], "--inception nowhere.pt: no such file"),
        ({"training_data": {}}, [], "does not name its training data"),
        (
            {"training_data": {"name": "halves", "license": "MIT", "sha256": {}}},
            [],
            "not the data that tiny was trained on",
        ),
    ],
)
def test_what_is_wrong_is_named(model_folder, judge_folder, data_folder, capsys, changes, more, message):
    change_card(model_folder, **changes)
    assert main(options(judge_folder, data_folder, *more)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_data_of_an_unknown_place_are_asked_for(model_folder, judge_folder, capsys):
    assert main(["tiny", "--judge", str(judge_folder)]) == 1
    assert "say with --data where halves is" in capsys.readouterr().err


def test_a_judge_that_steered_is_refused(model_folder, judge, judge_folder, data_folder, capsys):
    change_card(model_folder, guide=judge.digest)
    assert main(options(judge_folder, data_folder)) == 1
    assert f"tiny was steered by the judge {judge.digest}" in capsys.readouterr().err
    change_card(model_folder, guide="another")
    assert main(options(judge_folder, data_folder, "--dry-run")) == 0


def test_a_missing_model_or_judge_is_named(model_folder, data_folder, capsys):
    assert main(["nobody"]) == 1
    assert "nobody: no weights folder" in capsys.readouterr().err
    assert main(["tiny", "--data", str(data_folder)]) == 1
    assert "no judge for halves" in capsys.readouterr().err


def test_names_and_paths_find_a_folder(model_folder):
    assert find_folder("tiny") == Path("weights/tiny")
    assert find_folder("weights/tiny") == Path("weights/tiny")


def test_a_generator_needs_a_judge(model_folder, dataset):
    with pytest.raises(TrainingError, match="a judge is needed"):
        evaluate(checkpoint.load(model_folder), dataset, None)


def test_a_judge_that_knows_other_classes_is_refused(model_folder, dataset, judge):
    config = {**CONFIG, "num_classes": 2}
    folder = model_folder.parent / "two"
    checkpoint.save(folder, ConvGenerator(**config), architecture="conv-gan", config=config)
    with pytest.raises(TrainingError, match="two has 2 classes, the judge knows 3"):
        evaluate(checkpoint.load(folder), dataset, judge, count=48)


def test_pictures_of_another_size_than_the_data_are_refused(model_folder, dataset, judge):
    config = {**CONFIG, "base_size": 8}
    folder = model_folder.parent / "large"
    checkpoint.save(folder, ConvGenerator(**config), architecture="conv-gan", config=config)
    with pytest.raises(TrainingError, match=r"large makes pictures of \[1, 16, 16\], the data are \[1, 8, 8\]"):
        evaluate(checkpoint.load(folder), dataset, judge, count=48)


COMMITTED = (
    "weights/animals-gan",
    "weights/fashion-gan",
    "weights/fashion-style",
    "weights/fashion-vae",
    "weights/info-gan",
    "weights/mlp-gan",
    "training/judges/animals",
    "training/judges/animals-guide",
    "training/judges/fashion",
    "training/judges/fashion-guide",
)


@pytest.mark.parametrize("folder", COMMITTED)
def test_the_committed_card_and_readme_agree_and_pass_their_gates(folder):
    path = ROOT / folder / "config.json"
    name, loaded = path.parent.name, checkpoint.load(path.parent, networks())
    assert loaded.config.card["gates"]
    assert cards.missed_gates(loaded.config.card) == []
    assert (path.parent / "README.md").read_text() == cards.render(name, loaded.config)
    assert json.loads(path.read_text())["labels"] == list(loaded.config.labels)


@pytest.mark.skipif(
    not Path(DEFAULT_PATHS["fashion-mnist"]).is_dir(),
    reason="Debian package dataset-fashion-mnist is not installed",
)
def test_the_committed_judge_is_as_good_as_its_card_says():
    loaded = checkpoint.load(ROOT / "training/judges/fashion", networks())
    test = dataset_of(loaded, None).test
    some = Split(test.pictures[:2000], test.labels[:2000])
    said = loaded.config.card["metrics"]["accuracy"]
    assert said >= 0.92
    assert quality.measure_classifier(loaded.model, some)["accuracy"] == pytest.approx(said, abs=0.02)
