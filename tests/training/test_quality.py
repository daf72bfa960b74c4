from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from models.gan import ConvGenerator
from models.vae import ConvVAE
from training import quality
from training.data import Batch, to_samples
from training.errors import TrainingError

CONFIG = {"latent_dim": 4, "num_classes": 3, "embedding_dim": 4, "channels": (8, 8), "base_size": 4}


class Copier(nn.Module):
    """A generator that hands out stored pictures of the label, whichever the latent points at."""

    latent_shape = (1,)

    def __init__(self, split, labels_seen=3):
        super().__init__()
        self.num_classes = 3
        self.marker = nn.Parameter(torch.zeros(1))
        self.pools = [to_samples(split.pictures[split.labels == c]) for c in range(3)]
        self.labels_seen = labels_seen

    def decode(self, latents, labels, /):
        picked = [self.pools[int(y) % self.labels_seen] for y in labels]
        return torch.stack(
            [pool[int(abs(z) * 1000) % len(pool)] for pool, z in zip(picked, latents[:, 0], strict=True)]
        )


def test_generating_is_repeatable_and_leaves_global_noise_alone():
    torch.manual_seed(0)
    model = ConvGenerator(**CONFIG).eval()
    labels = quality.balanced_labels(7, 3)
    torch.manual_seed(1)
    expected = torch.randn(3)
    torch.manual_seed(1)
    first = quality.generate(model, labels, seed=4)
    assert torch.equal(torch.randn(3), expected)
    assert torch.equal(first, quality.generate(model, labels, seed=4))
    assert not torch.equal(first, quality.generate(model, labels, seed=5))
    assert first.shape == (7, 1, 8, 8)


def test_a_network_that_cannot_generate_is_refused():
    with pytest.raises(TrainingError, match="Linear is not a LatentModel"):
        quality.generate(nn.Linear(1, 1), torch.zeros(1, dtype=torch.int64), seed=0)


def test_a_grid_has_a_class_a_row(dataset):
    grid = quality.sample_grid(Copier(dataset.train))
    assert grid.shape == (30, 1, 8, 8)
    means = grid[:10].mean((0, 1))
    assert means[:, :4].mean() > means[:, 4:].mean() + 1  # class 0 is bright on the left


def test_truncation_scales_the_latents():
    class Shown(nn.Module):
        latent_shape, num_classes = (1, 2, 2), 0

        def __init__(self):
            super().__init__()
            self.marker = nn.Parameter(torch.zeros(1))

        def decode(self, latents, labels, /):
            return latents

    labels = torch.zeros(5, dtype=torch.int64)
    whole = quality.generate(Shown(), labels, seed=1)
    assert torch.allclose(quality.generate(Shown(), labels, seed=1, truncation=0.5), whole / 2)
    assert torch.equal(quality.generate(Shown(), labels, seed=1, truncation=1.0), whole)


def test_latents_are_drawn_as_the_model_wants_them(monkeypatch):
    monkeypatch.setattr(quality, "draw_latents", lambda model, count, generator: torch.zeros(count, 4))
    model = ConvGenerator(**CONFIG).eval()
    first, second = quality.generate(model, torch.zeros(2, dtype=torch.int64), seed=4)
    assert torch.equal(first, second)


def test_the_watch_sees_a_collapse(judge, dataset, monkeypatch):
    def halves(samples, batch_size=500):
        bright = torch.stack([samples[:, 0, :, :4].mean((1, 2)), samples[:, 0, :, 4:].mean((1, 2))], 1)
        classes = bright.argmax(1)
        classes[(bright[:, 0] - bright[:, 1]).abs() < 0.5] = 2
        return quality.Opinion(samples.flatten(1).double().numpy(), classes.numpy(), np.eye(3)[classes.numpy()])

    monkeypatch.setattr(type(judge), "opinion", lambda self, samples: halves(samples))
    watch = quality.Watch(judge, dataset)
    healthy = watch.look(Copier(dataset.train))
    assert healthy["min_class_share"] == 1.0
    assert healthy["class_accuracy"] == 1.0
    collapsed = watch.look(Copier(dataset.train, labels_seen=1))
    assert collapsed["min_class_share"] == 0.0
    assert collapsed["class_accuracy"] == pytest.approx(1 / 3)
    assert collapsed["fd_clf_rough"] > 10 * healthy["fd_clf_rough"]


def test_the_terms_of_the_bound_are_those_of_the_distributions():
    torch.manual_seed(0)
    model = ConvVAE(**CONFIG).eval()
    batch = Batch(torch.randint(0, 2, (5, 1, 8, 8)).float() * 2 - 1, torch.tensor([0, 1, 2, 0, 1]))
    nll, kl = quality.bound_terms(model, batch, torch.Generator().manual_seed(3))
    mean, log_variance = model.posterior(*batch)
    posterior = Normal(mean, (log_variance / 2).exp())
    assert torch.allclose(kl, kl_divergence(posterior, Normal(0.0, 1.0)).sum(1), atol=1e-5)
    latents = mean + posterior.scale * torch.randn(mean.shape, generator=torch.Generator().manual_seed(3))
    likelihood = Bernoulli(logits=model.logits(latents, batch.labels)).log_prob((batch.samples + 1) / 2)
    assert torch.allclose(nll, -likelihood.flatten(1).sum(1), rtol=1e-5)


def test_the_bound_is_the_mean_over_the_split(dataset):
    torch.manual_seed(0)
    model = ConvVAE(**CONFIG).eval()
    nll, kl = quality.bound_terms(model, dataset.test.batch(torch.arange(48)), torch.Generator().manual_seed(0))
    assert quality.negative_elbo(model, dataset.test) == pytest.approx((nll + kl).mean().item(), rel=1e-5)
    few = (nll + kl)[:10].mean().item()
    assert quality.negative_elbo(model, dataset.test, limit=10) != pytest.approx((nll + kl).mean().item(), rel=1e-6)
    assert quality.negative_elbo(model, dataset.test, limit=10) == pytest.approx(few, rel=0.05)


def test_accuracy_counts_the_whole_split(judge, dataset):
    classes = judge.opinion(to_samples(dataset.test.pictures)).classes
    expected = float(np.mean(classes == dataset.test.labels.numpy()))
    assert quality.measure_classifier(judge.network, dataset.test) == {"accuracy": expected}


def test_a_gate_on_what_is_never_measured_is_refused():
    with pytest.raises(TrainingError, match=r"gates\.fid: no such metric for a gan"):
        quality.check_metrics("gan", ["fd_clf", "fid"])
    with pytest.raises(TrainingError, match=r"gates\.negative_elbo"):
        quality.check_metrics("gan", ["negative_elbo"])
    quality.check_metrics("vae", ["negative_elbo"])


def test_a_judge_of_other_data_is_refused(judge, dataset):
    check = partial(quality.check_comparable, "tiny", 3, [1, 8, 8], dataset)
    check(judge)  # its card does not say what it was trained on
    check(replace(judge, data="halves"))
    with pytest.raises(TrainingError, match="the judge was trained on quarters, tiny on halves"):
        check(replace(judge, data="quarters"))
