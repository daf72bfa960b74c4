import pytest
import torch
from torch import nn

from training.ema import Ema


def test_the_shadow_follows_by_the_stated_rule():
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(1.0)
    ema = Ema(network, decay=0.5)
    expected = 1.0
    for step in range(20):
        network.weight.data.fill_(float(step))
        ema.update(network, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert ema.model.weight.item() == pytest.approx(expected, rel=1e-5)


def test_buffers_follow_too_and_counters_are_copied():
    network = nn.BatchNorm1d(2)
    ema = Ema(network, decay=0.0)
    network(torch.randn(8, 2))
    ema.update(network, step=100)
    assert ema.model.num_batches_tracked == 1
    assert torch.allclose(ema.model.running_mean, network.running_mean)


def test_the_shadow_is_separate_frozen_and_in_evaluation_mode():
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    ema = Ema(network, decay=0.5)
    network[0].weight.data.fill_(9.0)
    assert not torch.equal(ema.model[0].weight, network[0].weight)
    assert not ema.model.training
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
