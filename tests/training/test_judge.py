from pathlib import Path

import numpy as np
import pytest
import torch

import models
from models import checkpoint
from models.config import read_config
from training.errors import TrainingError
from training.judge import JUDGES, RESIDUAL, ConvJudge, ResidualJudge, judge_folder, load_judge
from training.recipe import read_recipe


@pytest.fixture
def samples():
    return torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "training" / "recipes"
RESIDUAL_CONFIG = {"num_classes": 3, "channels": [8, 12], "features": 5}
NETWORKS = {
    "conv-judge": lambda: ConvJudge(num_classes=3, channels=(8,), features=5, image_size=8),
    RESIDUAL: lambda: ResidualJudge(**RESIDUAL_CONFIG),
}


def test_a_judge_is_never_served():
    assert not JUDGES.keys() & (models.LATENT_MODELS.keys() | models.SEQUENCE_MODELS.keys())


@pytest.mark.parametrize("architecture", JUDGES)
def test_features_have_unit_variance_after_normalising_and_logits_stay(samples, architecture):
    torch.manual_seed(0)
    network = NETWORKS[architecture]().eval()
    before = network(samples)
    assert network.features(samples).var(0).mean() < 0.5
    network.normalise_features(samples)
    assert network.features(samples).var(0).mean().item() == pytest.approx(1, rel=1e-4)
    assert torch.allclose(network(samples), before, atol=1e-5)


def test_an_opinion_does_not_depend_on_the_batches(judge, samples):
    whole, parts = judge.opinion(samples), judge.opinion(samples, batch_size=7)
    assert whole.features.dtype == np.float64
    assert whole.features.shape == (40, 6)
    assert np.allclose(whole.features, parts.features, atol=1e-5)
    assert whole.classes.tolist() == parts.classes.tolist()
    with torch.no_grad():
        logits = judge.network(samples)
    assert whole.classes.tolist() == logits.argmax(1).tolist()
    assert np.allclose(whole.probabilities, logits.double().softmax(1).numpy(), atol=1e-6)


def test_a_residual_judge_is_loaded_like_any_other(tmp_path, samples):
    torch.manual_seed(0)
    network = ResidualJudge(**RESIDUAL_CONFIG).eval()
    checkpoint.save(tmp_path / "guide", network, architecture=RESIDUAL, config=RESIDUAL_CONFIG)
    judge = load_judge(tmp_path / "guide")
    assert isinstance(judge.network, ResidualJudge)
    assert judge.num_classes == 3
    with torch.no_grad():
        assert torch.allclose(judge.network(samples), network(samples), atol=2e-2)  # stored in fp16


def test_a_residual_judge_adds_what_it_is_given():
    """A block whose convolutions are zero passes the shortcut on, so that gradients reach the stem."""
    torch.manual_seed(0)
    network = ResidualJudge(**RESIDUAL_CONFIG).train()
    for block in network.blocks:
        torch.nn.init.zeros_(block.second.weight)
    network(torch.rand(4, 1, 8, 8)).sum().backward()
    assert network.stem.weight.grad.abs().max() > 0
    assert all(block.first.weight.grad.abs().max() == 0 for block in network.blocks)


def test_the_two_committed_judges_differ_in_architecture_seed_and_data():
    measuring, steering = (read_recipe(RECIPES / f"fashion-{name}.toml") for name in ("judge", "guide"))
    assert measuring.model.architecture != steering.model.architecture
    assert measuring.seed != steering.seed
    assert (measuring.objective.half, steering.objective.half) == ("both", "even")
    kinds = [read_config(ROOT / recipe.export, JUDGES).architecture for recipe in (measuring, steering)]
    assert kinds == [measuring.model.architecture, steering.model.architecture]


def test_a_missing_or_broken_judge_is_named(tmp_path, judge_folder):
    with pytest.raises(TrainingError, match=r"judge can't be loaded.*config\.json: missing"):
        load_judge(tmp_path)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((judge_folder / name).read_bytes())
    tampered = bytearray((tmp_path / "model.safetensors").read_bytes())
    tampered[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(tampered)
    with pytest.raises(TrainingError, match=r"judge can't be loaded.*sha256"):
        load_judge(tmp_path)


def test_the_committed_judges_know_their_data():
    for data in ("fashion-mnist", "animal-mnist"):
        assert load_judge(judge_folder(data)).data == data
    with pytest.raises(TrainingError, match=r"no judge for halves .* fashion-mnist, animal-mnist"):
        judge_folder("halves")
