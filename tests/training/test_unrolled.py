"""Looking ahead is what the optimiser would do, gradients included, and leaves everything as it was."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from training.objective import descend
from training.unrolled import look_ahead

STEPS = 4


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def quadratic(model, weights, samples):
    return functional_call(model, dict(weights), samples).square().mean()


def warmed(model, **options):
    """An optimiser that has moments already."""
    optimizer = torch.optim.AdamW(model.parameters(), 0.05, betas=(0.5, 0.9), **options)
    for seed in range(3):
        descend(model(torch.randn(8, 2, generator=torch.Generator().manual_seed(seed)).double()).sum(), optimizer)
    return optimizer


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_comes_to_where_the_optimiser_would(begun, decay):
    model, samples = network(), torch.randn(8, 2).double()
    optimizer = (
        warmed(model, weight_decay=decay) if begun else torch.optim.AdamW(model.parameters(), weight_decay=decay)
    )
    ahead = look_ahead(model, optimizer, lambda weights: quadratic(model, weights, samples), STEPS)
    for _ in range(STEPS):
        descend(model(samples).square().mean(), optimizer)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ahead[name], parameter.detach(), rtol=1e-6, atol=1e-7)


def test_nothing_is_changed_by_looking():
    model = network()
    optimizer = warmed(model)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    look_ahead(model, optimizer, lambda weights: quadratic(model, weights, torch.ones(1, 2).double()), STEPS)
    after = model.state_dict(), optimizer.state_dict()
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    for index, state in before[1]["state"].items():
        assert all(torch.equal(tensor, after[1]["state"][index][name]) for name, tensor in state.items())
    assert all(parameter.grad is not None and parameter.requires_grad for parameter in model.parameters())


def test_gradients_flow_through_every_step():
    """Against differences: how the network's end depends on what it was trained on."""
    model = network()
    optimizer = warmed(model)

    def end(samples):
        ahead = look_ahead(model, optimizer, lambda weights: quadratic(model, weights, samples), STEPS)
        return functional_call(model, ahead, torch.ones(1, 2).double()).sum()

    assert torch.autograd.gradcheck(end, torch.randn(3, 2).double().requires_grad_(), eps=1e-6, atol=1e-6)


def test_what_the_loss_does_not_use_stays_where_it_is_without_momentum():
    model = network()
    fresh = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    ahead = look_ahead(model, fresh, lambda weights: weights["2.bias"].square().sum() + weights["0.bias"].sum(), 1)
    for name, parameter in model.named_parameters():
        assert torch.equal(ahead[name], parameter) == name.endswith("weight")
