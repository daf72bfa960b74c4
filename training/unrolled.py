"""Unrolled GANs (Metz et al. 2017, arXiv 1611.02163): the discriminator as it will be some steps from now.

A generator that is shown only the present discriminator piles all it makes onto the one place that fools it; one that
sees the answer coming has no reason to. Knows one network, its optimiser and a loss.
"""

from collections.abc import Callable, Mapping
from typing import Any

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
        optimizer: Adam or AdamW over all of its parameters.
        loss: of the network with given weights.
        steps: at least 1.
    """
    paths = {
        name: _Path(parameter, optimizer, group)
        for group in optimizer.param_groups
        for name, parameter in network.named_parameters()
        if any(parameter is own for own in group["params"])
    }
    for _ in range(steps):
        weights = {name: path.weight for name, path in paths.items()}
        gradients = torch.autograd.grad(loss(weights), list(weights.values()), create_graph=True, allow_unused=True)
        for path, gradient in zip(paths.values(), gradients, strict=True):
            path.step(gradient)
    return {name: path.weight for name, path in paths.items()}


class _Path:
    """One parameter on its way, by Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    def __init__(self, parameter: nn.Parameter, optimizer: Optimizer, group: Mapping[str, Any]) -> None:
        state = optimizer.state.get(parameter, {})
        zero = torch.zeros_like(parameter)
        self.weight = parameter.detach().clone().requires_grad_()
        self._mean, self._square = state.get("exp_avg", zero), state.get("exp_avg_sq", zero)
        self._count = float(state.get("step", 0))
        self._group = group

    def step(self, gradient: Tensor | None) -> None:
        """One step; none where the loss does not depend on the weight."""
        if gradient is None:
            return
        first, second = self._group["betas"]
        rate, decay, tiny = (self._group[key] for key in ("lr", "weight_decay", "eps"))
        self._count += 1
        self._mean = torch.lerp(gradient, self._mean, first)
        self._square = second * self._square + (1 - second) * gradient.square()
        mean = self._mean / (1 - first**self._count)
        # inside the root, where Adam has it outside: the root's slope at 0 is infinite
        size = (self._square / (1 - second**self._count) + tiny**2).sqrt()
        self.weight = self.weight * (1 - rate * decay) - rate * mean / size
