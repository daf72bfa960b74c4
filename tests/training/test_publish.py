import json

import pytest
import torch

from models import checkpoint
from models.protocols import LatentModel
from tests.training.conftest import guide_of
from training import evaluate, information, measurement
from training.errors import TrainingError
from training.judge import ConvJudge, load_judge
from training.publish import publish


@pytest.fixture
def finished(make_run, recipe, monkeypatch):
    """A run of two steps; 48 pictures instead of 10,000 are measured."""
    monkeypatch.setattr("training.publish.COUNT", 48)

    def make(kind, **changes):
        run = make_run(recipe(kind, steps=2, **changes))
        run.start()
        run.train(lambda: run.finished, lambda progress, values: None)
        return run

    return make


def card_of(folder):
    return json.loads((folder / "config.json").read_text())["card"]


@pytest.mark.parametrize("kind", ["gan", "vae"])
def test_a_weights_folder_is_complete_and_can_be_served(finished, tmp_path, kind):
    run = finished(kind, gates={"class_accuracy": {"min": 0.0}})
    publish(run, "tiny.toml")
    folder = tmp_path / "export" / f"tiny-{kind}"
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md", "samples.png"}
    loaded = checkpoint.load(folder)
    assert isinstance(loaded.model, LatentModel)
    assert loaded.config.labels == ("left", "right", "bottom")
    expected = {name: tensor.half().float() for name, tensor in run.objective.ema.state_dict().items()}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.model.state_dict().items())


def test_the_card_says_what_was_done_and_measured(finished, tmp_path):
    run = finished("gan", gates={"fd_clf": {"max": 1e9}})
    publish(run, "tiny.toml")
    card = card_of(tmp_path / "export" / "tiny-gan")
    assert card["training_data"] == {"name": "halves", "license": "MIT", "sha256": dict(run.dataset.sha256)}
    assert (card["recipe"], card["steps"], card["license"]) == ("tiny.toml", 2, "Apache-2.0")
    assert card["gates"] == {"fd_clf": {"max": 1e9}}
    assert set(card["metrics"]) == set(measurement.METRICS)
    assert card["evaluation"]["count"] == 48
    assert card["evaluation"]["judge"] == load_judge(run.recipe.objective.judge).digest


def test_the_card_names_the_guide_that_steered(finished, raw_recipe, judge_folder, tmp_path):
    guide = guide_of(judge_folder)
    publish(finished("vae", objective=raw_recipe("vae")["objective"] | {"guide": str(guide)}), "tiny.toml")
    assert card_of(tmp_path / "export" / "tiny-vae")["guide"] == load_judge(guide).digest


def test_a_missed_gate_refuses_the_export_and_keeps_the_candidate(finished, tmp_path):
    gates = {"fd_clf": {"max": 1e9}, "class_accuracy": {"min": 1.01}}
    run = finished("gan", gates=gates)
    with pytest.raises(
        TrainingError, match=r"gates missed: class_accuracy is 0\.\d+, min 1\.01 wanted; nothing exported"
    ):
        publish(run, "tiny.toml")
    assert not (tmp_path / "export").exists()
    assert set(card_of(run.folder / "candidate" / "tiny-gan")["metrics"]) == set(measurement.METRICS)


def test_an_export_leaves_nothing_of_the_one_before(finished, tmp_path):
    export, run = tmp_path / "export" / "tiny-gan", finished("gan")
    publish(run, "tiny.toml")
    for name in ("critic.safetensors", "controls.png"):
        (export / name).write_bytes(b"of another network")
    publish(run, "tiny.toml")
    assert not {"critic.safetensors", "controls.png"} & {path.name for path in export.iterdir()}
    assert [path.name for path in export.parent.iterdir()] == ["tiny-gan"], "and no folder beside it"


def test_a_missed_gate_leaves_what_was_exported_before(finished, tmp_path):
    publish(finished("gan"), "tiny.toml")
    folder = tmp_path / "export" / "tiny-gan"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    worse = finished_again(finished, tmp_path)
    with pytest.raises(TrainingError, match="gates missed"):
        publish(worse, "tiny.toml")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def finished_again(finished, tmp_path):
    (tmp_path / "run" / "snapshot.pt").unlink()
    return finished("gan", seed=6, gates={"class_accuracy": {"min": 1.01}})


def test_a_judge_is_published_with_features_of_unit_variance(finished, tmp_path):
    run = finished("classifier", gates={"accuracy": {"min": 0.0}})
    publish(run, "tiny.toml")
    folder = tmp_path / "export" / "tiny-classifier"
    judge = load_judge(folder)
    assert isinstance(judge.network, ConvJudge)
    features = judge.opinion(run.dataset.train.batch(torch.arange(96)).samples).features
    assert features.var(0).mean() == pytest.approx(1, rel=0.05)  # the weights were rounded to fp16
    assert not (folder / "samples.png").exists()
    assert card_of(folder)["metrics"].keys() == {"accuracy"}


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_card_names_the_judge_that_picked_the_network(finished, raw_recipe, tmp_path, keep):
    objective = raw_recipe("gan")["objective"] | {"keep": keep}
    publish(finished("gan", objective=objective), "tiny.toml")
    guide = card_of(tmp_path / "export" / "tiny-gan").get("guide")
    assert guide == (load_judge(objective["watch"]).digest if keep == "best" else None)


def informed(raw_recipe):
    """Recipe keys of a tiny InfoGAN."""
    raw = raw_recipe("gan")["objective"]
    raw |= {"information": {"categories": 1.0, "codes": 0.5}, "keep": "last"}  # both tiny judges are the same
    raw["discriminator"] = {"kind": "info", "categories": 3, "codes": 2, "hidden": 8, "channels": [8], "image_size": 8}
    config = {"codes": 2, "latent_dim": 6, "num_classes": 3, "embedding_dim": 4, "channels": [8, 8], "base_size": 4}
    return {"objective": raw, "model": {"architecture": "info-gan", "config": config}}


def test_an_info_gan_is_published_with_its_controls_and_evaluated_again(
    finished, raw_recipe, judge_folder, data_folder, tmp_path
):
    gates = {"class_information": {"min": 0.0}, "least_code_correlation": {"min": -1.0}}
    publish(finished("gan", **informed(raw_recipe), gates=gates), "tiny.toml")
    folder = tmp_path / "export" / "tiny-gan"
    assert (folder / "controls.png").read_bytes().startswith(b"\x89PNG")
    loaded = checkpoint.load(folder)
    assert loaded.config.labels == ("category 0", "category 1", "category 2")
    assert loaded.config.controls == {
        f"code_{i}": {"index": 4 + i, "min": -2.0, "max": 2.0, "description": ""} for i in (0, 1)
    }
    card = loaded.config.card
    assert card["training_data"]["labels"] == ["left", "right", "bottom"]
    assert {entry["class"] for entry in card["evaluation"]["categories"]} <= {"left", "right", "bottom"}
    assert set(card["metrics"]) >= set(information.METRICS) | {"fd_clf", "diversity"}
    assert "class_accuracy" not in card["metrics"]  # nobody asked for a class
    words = ["--judge", str(judge_folder), "--data", str(data_folder), "--count", "48"]
    assert evaluate.main([str(folder), *words, "--describe", "code_1=wide to narrow"]) == 0
    again = checkpoint.load(folder).config
    assert again.controls["code_1"]["description"] == "wide to narrow"
    assert (again.card["metrics"], again.digest) == (card["metrics"], loaded.config.digest)
    text = (folder / "README.md").read_text()
    for part in ("](controls.png)", "| `code_1` | -2 | 2 |", "wide to narrow", "| category 2 | ", "class_information"):
        assert part in text, part


def test_describing_what_is_no_control_is_refused(finished, tmp_path, capsys):
    publish(finished("gan"), "tiny.toml")
    assert evaluate.main([str(tmp_path / "export" / "tiny-gan"), "--describe", "code_0=x"]) == 1
    assert "--describe code_0=x: CONTROL=TEXT of a control of the model (none)" in capsys.readouterr().err
