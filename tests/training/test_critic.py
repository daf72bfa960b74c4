"""A run's discriminator stands beside its generator, with a scale that makes its logits a log ratio of densities."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from models import checkpoint
from models.checkpoint import Checkpoint
from models.config import read_config
from models.critic import Critic
from models.style_gan import StyleGenerator
from training import critic, quality
from training.data import Split, to_samples
from training.errors import TrainingError
from training.publish import publish as publish_run
from training.snapshot import load_snapshot


@pytest.fixture
def run(make_run, recipe, raw_recipe, monkeypatch):
    monkeypatch.setattr("training.publish.COUNT", 48)
    objective = raw_recipe("gan")["objective"] | {"keep": "last"}  # both tiny judges are the same
    made = make_run(recipe("gan", steps=2, objective=objective, gates={"class_accuracy": {"min": 0.0}}))
    made.start()
    made.train(lambda: made.finished, lambda progress, values: None)
    publish_run(made, "tiny.toml")
    return made


@pytest.fixture
def folder(run, tmp_path):
    return tmp_path / "export" / "tiny-gan"


def put(folder, run, **fields):
    where = {"data": run.recipe.data.path, "judge": run.recipe.objective.judge}
    return critic.publish(folder, run.folder, **{"step_size": 0.05, "count": 0, **where, **fields})


def test_a_critic_is_published_and_the_generator_stays(run, folder):
    before = (folder / "model.safetensors").read_bytes(), read_config(folder).digest
    written = put(folder, run)
    assert ((folder / "model.safetensors").read_bytes(), written.digest) == before
    found = checkpoint.load_critic(folder, read_config(folder))
    for name, tensor in run.objective.networks["discriminator"].state_dict().items():
        assert torch.equal(found.network.state_dict()[name], tensor.half().float())
    assert found.step_size == 0.05
    assert found.scale > 0
    assert "## Critic" in (folder / "README.md").read_text()


def test_what_sampling_gains_is_measured_and_shown(run, folder, monkeypatch):
    monkeypatch.setattr(critic, "STEPS", (0, 2))
    sampling = put(folder, run, count=48).critic.card["sampling"]
    assert [row["steps"] for row in sampling["table"]] == [0, 2]
    assert sampling["count"] == 48
    assert set(critic.MEASURED) < set(sampling["table"][0])
    assert sampling["table"][0]["milliseconds"] == 0
    assert sampling["table"][1]["milliseconds"] > 0
    assert "| 2 |" in (folder / "README.md").read_text()


def test_a_run_that_made_other_weights_is_refused(run, folder):
    loaded = checkpoint.load(folder)
    with torch.no_grad():
        next(loaded.model.parameters()).add_(1.0)
    checkpoint.save(
        folder,
        loaded.model,
        architecture=loaded.config.architecture,
        config=loaded.config.config,
        labels=loaded.config.labels,
        card=loaded.config.card,
    )
    with pytest.raises(TrainingError, match="the run did not make tiny-gan"):
        put(folder, run)
    assert read_config(folder).critic is None


def test_a_model_whose_latents_are_not_normal_is_refused(run, folder):
    """The service would not start with such a folder."""
    styled = Checkpoint("styled", checkpoint.load(folder).config, StyleGenerator(latent_dim=8, num_classes=3))
    with pytest.raises(TrainingError, match="styled: a critic belongs to a model whose latents are standard normal"):
        critic.discriminator_of(load_snapshot(run.folder / "snapshot.pt"), styled)


def test_a_run_without_a_discriminator_is_refused(run, folder):
    loaded = checkpoint.load(folder)
    with pytest.raises(TrainingError, match="no discriminator"):
        critic.discriminator_of({"recipe": json.dumps({"objective": {}}), "networks": {}, "ema": {}}, loaded)


def test_the_command_says_in_one_line_what_is_wrong(folder, tmp_path, capsys):
    assert critic.main([str(folder), "--run", str(tmp_path / "nowhere"), "--data", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


class Darkness(nn.Module):
    """Says how bright a picture is, and for one class always ten more."""

    def forward(self, samples, labels):
        return samples.flatten(1).mean(1) + 10.0 * (labels == 1)


class Constant(nn.Module):
    """Paints pictures as bright as their latent is large, around half of what the data are."""

    latent_shape, num_classes = (1,), 3

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def decode(self, latents, labels, /):
        return (0.1 * latents[:, :, None, None] * self.weight).expand(-1, 1, 4, 4)


def test_the_scale_is_that_of_the_log_ratio(dataset):
    """Brightness N(0.1, 0.1) against N(0, 0.1): the log ratio is 10 times the brightness; the class says nothing."""
    drawn = torch.Generator().manual_seed(0)
    bright = 0.1 + 0.1 * torch.randn(6000, 1, 1, 1, generator=drawn)
    pictures = ((bright.expand(-1, 1, 4, 4) + 1) * 127.5).round().to(torch.uint8)
    test = Split(pictures, quality.balanced_labels(6000, 3))
    assert to_samples(pictures).mean() == pytest.approx(0.1, abs=0.01)
    found = critic.calibrate(Darkness(), Constant(), dataclasses.replace(dataset, test=test))
    assert found.scale == pytest.approx(10.0, rel=0.1)
    assert found.nll == pytest.approx(0.58, abs=0.03)


def test_latents_are_the_same_until_the_first_step(dataset):
    generator = Constant().requires_grad_(False)
    labels = quality.balanced_labels(30, 3)
    found, seconds = critic.sample(generator, Critic(Darkness(), 5.0, 0.1), labels, (0, 3))
    assert found[0].shape == found[3].shape == (30, 1)
    assert not torch.equal(found[0], found[3])
    assert seconds > 0
    again, _ = critic.sample(generator, Critic(Darkness(), 5.0, 0.1), labels, (0, 3))
    assert torch.equal(found[3], again[3])
