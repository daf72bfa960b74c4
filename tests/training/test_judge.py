import numpy as np
import pytest
import torch

import models
from training.errors import TrainingError
from training.judge import ARCHITECTURE, ConvJudge, load_judge


@pytest.fixture
def samples():
    return torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_judge_is_never_served():
    assert ARCHITECTURE not in models.LATENT_MODELS.keys() | models.SEQUENCE_MODELS.keys()


def test_features_have_unit_variance_after_normalising_and_logits_stay(samples):
    network = ConvJudge(num_classes=3, channels=(8,), features=5, image_size=8).eval()
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
    assert whole.classes.tolist() == judge.network(samples).argmax(1).tolist()


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
