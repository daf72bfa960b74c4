import json
import pickle
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import models
from models import checkpoint
from models.gan import ConvGenerator
from training.export import main

CONFIG = {"latent_dim": 4, "num_classes": 3, "embedding_dim": 4, "channels": [8, 8], "base_size": 4}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ConvGenerator(**CONFIG)


@pytest.fixture
def run(tmp_path, monkeypatch, model):
    """`run(saved, ...)`: save an object, export it; the status, and arguments replaced or taken away by None."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENSERVE_MODELS_MODULE", raising=False)
    Path("config.json").write_text(json.dumps(CONFIG))

    def make(saved, *flags, **changes):
        if saved is not None:
            torch.save(saved, "model.pt")
        arguments = {"from": "model.pt", "arch": "conv-gan", "config": "config.json", "name": "mine", **changes}
        return main([part for key, value in arguments.items() for part in (f"--{key}", value)] + list(flags))

    return make


def error_of(capsys):
    found = capsys.readouterr().err
    assert found.startswith("error: ")
    assert found.count("\n") == 1
    return found


def test_a_state_dict_becomes_a_weights_folder(run, model, capsys):
    assert run(model.state_dict(), labels="left, right,bottom", description="Mine.", license="CC0") == 0
    loaded = checkpoint.load(Path("weights/mine"))
    assert loaded.config.labels == ("left", "right", "bottom")
    assert loaded.config.card == {"description": "Mine.", "license": "CC0", "metrics": {}}
    latents, labels = torch.randn(3, 4), torch.tensor([0, 1, 2])
    assert torch.allclose(loaded.model.decode(latents, labels), model.decode(latents, labels), atol=5e-3)
    said = capsys.readouterr().out
    assert "wrote weights/mine" in said
    assert loaded.config.digest in said


def test_the_same_weights_always_get_the_same_digest(run, model, capsys):
    for name in ("one", "two"):
        assert run(model.state_dict(), name=name) == 0
    digests = {line.split()[-1] for line in capsys.readouterr().out.splitlines()}
    assert len(digests) == 1


def test_safetensors_are_read_too(run, model):
    safetensors.torch.save_file(model.state_dict(), "model.safetensors")
    assert run(None, **{"from": "model.safetensors", "weights": "elsewhere"}) == 0
    assert checkpoint.load(Path("elsewhere/mine")).config.size > 0


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_nested_state_dict_is_found(run, model, key):
    assert run({key: model.state_dict(), "epoch": 3, "optimizer": {"lr": 0.1}}) == 0


def test_two_nested_state_dicts_are_refused(run, model, capsys):
    assert run({"model": model.state_dict(), "state_dict": model.state_dict()}) == 1
    assert "holds dicts under state_dict and model" in error_of(capsys)


def test_a_prefix_picks_one_network_of_several(run, model):
    both = {f"generator.{name}": tensor for name, tensor in model.state_dict().items()}
    both["discriminator.score.weight"] = torch.zeros(1)
    assert run(both, prefix="generator.") == 0


def test_a_prefix_that_is_not_there_is_named(run, model, capsys):
    assert run(model.state_dict(), prefix="module.") == 1
    assert "--prefix module.: no key begins so" in error_of(capsys)


def test_labels_may_come_from_a_file(run, model):
    Path("labels.txt").write_text("left\nright side\nbottom\n")
    assert run(model.state_dict(), labels="labels.txt") == 0
    assert checkpoint.load(Path("weights/mine")).config.labels == ("left", "right side", "bottom")


@pytest.mark.parametrize(
    ("labels", "message"),
    [("a,b", "names 2 classes, the model has 3"), ("a,,b", "empty or comes twice"), ("a,b,a", "empty or comes twice")],
)
def test_wrong_labels_are_refused(run, model, capsys, labels, message):
    assert run(model.state_dict(), labels=labels) == 1
    assert message in error_of(capsys)
    assert not Path("weights").exists()


def changed(model, **tensors):
    state = {**model.state_dict(), **tensors}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"project.bias": None}, "project.bias is missing"),
        ({"extra": torch.zeros(1)}, "extra is unexpected"),
        ({"project.bias": torch.zeros(3)}, r"project.bias is [3], [128] expected"),
        ({"project.bias": torch.full((128,), torch.nan)}, "project.bias holds non-finite values"),
        ({"project.bias": torch.full((128,), -1e6)}, "project.bias reaches 1e+06, more than fp16 can hold"),
    ],
)
def test_tensors_that_do_not_fit_are_named(run, model, capsys, tensors, message):
    assert run(changed(model, **tensors)) == 1
    assert message in error_of(capsys)
    assert not Path("weights").exists()


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (nn.Linear(1, 1), "save model.state_dict(), not the model"),
        ([torch.zeros(1)], "holds a list, not a state dict"),
        (torch.zeros(1), "holds a Tensor, not a state dict"),
        ({"epoch": 3, "loss": 0.1}, "not a state dict: epoch, loss are no tensor"),
        ({"weight": torch.zeros(1), "epoch": 3}, "not a state dict: epoch is no tensor"),
        ({}, "it is empty"),
        ({"model": {}}, "it is empty"),
        ({3: torch.zeros(1)}, "3 is no tensor"),
    ],
)
def test_what_is_no_state_dict_is_refused(run, capsys, saved, message):
    assert run(saved) == 1
    assert message in error_of(capsys)


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("pwned"),)


def test_code_in_the_file_is_never_run(run, capsys):
    assert run({"weight": Payload()}) == 1
    assert "holds more than tensors" in error_of(capsys)
    Path("model.pt").write_bytes(pickle.dumps(Payload()))
    assert run(None) == 1
    error_of(capsys)
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"from": "none.pt"}, "none.pt: no such file"),
        ({"from": "config.safetensors"}, "not readable as safetensors"),
        ({"arch": "diffusion"}, "--arch diffusion: unknown (known: "),
        ({"config": "none.json"}, "--config none.json: no such file"),
        ({"config": "model.pt"}, "--config model.pt: not readable as JSON"),
        ({"config": "list.json"}, "--config list.json: a JSON object expected"),
        ({"config": "wrong.json"}, "chanels"),
        ({"name": "Mine"}, "--name 'Mine': must match"),
        ({"name": "../mine"}, "--name '../mine': must match"),
        ({"name": ""}, "--name '': must match"),
    ],
)
def test_a_wrong_argument_is_named(run, model, capsys, changes, message):
    Path("config.safetensors").write_text("{}")
    Path("list.json").write_text("[]")
    Path("wrong.json").write_text('{"chanels": [8]}')
    assert run(model.state_dict(), **changes) == 1
    assert message in error_of(capsys)
    assert not Path("weights").exists()


def test_a_place_that_cannot_be_written_is_named(run, model, capsys):
    Path("taken").write_text("a file")
    assert run(model.state_dict(), weights="taken") == 1
    assert "taken" in error_of(capsys)


def test_a_folder_that_exists_is_kept_unless_forced(run, model, capsys):
    assert run(model.state_dict()) == 0
    digest = checkpoint.load(Path("weights/mine")).config.digest
    other = {name: tensor * 0.5 for name, tensor in model.state_dict().items()}
    assert run(other) == 1
    assert "weights/mine exists already; --force replaces it" in error_of(capsys)
    assert checkpoint.load(Path("weights/mine")).config.digest == digest
    assert run(other, "--force") == 0
    assert checkpoint.load(Path("weights/mine")).config.digest != digest


OWN_MODULE = """
import torch
from torch import nn

import models


class Stripes(nn.Module):
    def __init__(self, *, size, gain=1.0, shape=4):
        super().__init__()
        self.latent_shape, self.num_classes, self.gain, self.size, self.shape = (size,), 0, gain, size, shape
        self.rows = nn.Linear(size, size)

    def decode(self, latents, labels, /):
        rows = torch.tanh(self.rows(latents)) + self.gain - 1
        return rows[:, None, :, None].expand(-1, self.shape - 1, -1, self.size)


models.LATENT_MODELS["stripes"] = Stripes
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "stripes_of_mine.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(models, "LATENT_MODELS", dict(models.LATENT_MODELS))
    yield "stripes_of_mine"
    sys.modules.pop("stripes_of_mine", None)


def test_ones_own_architecture(run, own_module, monkeypatch, capsys):
    monkeypatch.setenv("GENSERVE_MODELS_MODULE", own_module)
    Path("config.json").write_text('{"size": 6}')
    assert run(nn.ModuleDict({"rows": nn.Linear(6, 6)}).state_dict(), arch="stripes") == 0
    loaded = checkpoint.load(Path("weights/mine"))
    assert loaded.model.decode(torch.zeros(2, 6), torch.zeros(2, dtype=torch.int64)).shape == (2, 3, 6, 6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"size": 6, "gain": 9.0}, "values outside [-1, 1]"),
        ({"size": 6, "gain": float("nan")}, "values outside [-1, 1]"),
        ({"size": 6, "shape": 3}, "decode made [2, 2, 6, 6] of 2 latents"),
        ({"size": 6, "shape": "x"}, "decode fails on 2 latents of shape (6,): TypeError"),
    ],
)
def test_a_model_that_could_not_be_served_is_refused(run, own_module, monkeypatch, capsys, config, message):
    monkeypatch.setenv("GENSERVE_MODELS_MODULE", own_module)
    Path("config.json").write_text(json.dumps(config))
    assert run(nn.ModuleDict({"rows": nn.Linear(6, 6)}).state_dict(), arch="stripes") == 1
    assert message in error_of(capsys)


def test_a_module_that_cannot_be_imported_is_named(run, model, monkeypatch, capsys):
    monkeypatch.setenv("GENSERVE_MODELS_MODULE", "nowhere_to_be_found")
    assert run(model.state_dict()) == 1
    assert "GENSERVE_MODELS_MODULE=nowhere_to_be_found" in error_of(capsys)
