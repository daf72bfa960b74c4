"""Unrolled GANs (Metz et al. 2017, arXiv 1611.02163): the discriminator as it will be some steps from now.

A generator that is shown only the present discriminator piles all it makes onto the one place that fools it; one that
sees the answer coming has no reason to. Knows one network, its optimiser and a loss.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Weights = Mapping[str, Tensor]


def look_ahead(
    network: nn.Module, optimizer: Optimizer, loss: Callable[[Weights], Tensor], steps: int
) -> dict[str, Tensor]:
    """A network's weights after so many more steps of Adam on a loss, for `torch.func.functional_call`.

    They are functions of whatever the loss depends on, and gradients flow back through every step. The steps begin
    with the moments and the learning rate that the optimiser has; network and optimiser stay as they are.

    Args:
        network: under training.
        optimizer: Adam or AdamW over all of its parameters, in one group.
        loss: of the network with given weights.
        steps: at least 1.
    """
    (group,) = optimizer.param_groups
    parameters = dict(network.named_parameters())
    states = [optimizer.state.get(parameter, {}) for parameter in parameters.values()]
    mean, square = (_moments(parameters.values(), states, name) for name in ("exp_avg", "exp_avg_sq"))
    done = max(int(state.get("step", 0)) for state in states)
    flat = _joined(parameters.values()).requires_grad_()  # all as one: a step is few operations, however many there are
    for count in range(done + 1, done + 1 + steps):
        (gradient,) = torch.autograd.grad(loss(_apart(flat, parameters)), flat, create_graph=True)
        first, second = group["betas"]
        mean = torch.lerp(gradient, mean, first)
        square = second * square + (1 - second) * gradient.square()
        # eps inside the root, where Adam has it outside: the root's slope at 0 is infinite
        size = (square / (1 - second**count) + group["eps"] ** 2).sqrt()
        rate = group["lr"]
        flat = flat * (1 - rate * group["weight_decay"]) - rate / (1 - first**count) * mean / size
    return _apart(flat, parameters)


def _joined(tensors: Iterable[Tensor]) -> Tensor:
    """All numbers of some tensors, one after the other; a copy."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def _moments(parameters: Iterable[Tensor], states: Iterable[Mapping[str, Tensor]], name: str) -> Tensor:
    """What the optimiser keeps under this name, joined; 0 for what it has not moved yet."""
    pairs = zip(parameters, states, strict=True)
    return _joined(state.get(name, torch.zeros_like(parameter)) for parameter, state in pairs)


def _apart(flat: Tensor, parameters: Weights) -> dict[str, Tensor]:
    """Joined weights in their own shapes again."""
    parts = torch.split(flat, [parameter.numel() for parameter in parameters.values()])
    shapes = zip(parameters.items(), parts, strict=True)
    return {name: part.view_as(parameter) for (name, parameter), part in shapes}
