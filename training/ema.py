"""Exponential moving average of a network's weights: the copy that is evaluated and published."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Ema:
    """A shadow of a network whose weights follow it slowly.

    The decay rises with the steps, min(decay, (1 + step) / (10 + step)), so that the random weights of the start are
    soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Start from a copy of the network."""
        self.model = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move every weight (and running statistic) a little towards the network's, after step number `step`."""
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        shadow: dict[str, Tensor] = self.model.state_dict()
        for name, live in network.state_dict().items():
            if live.is_floating_point():
                shadow[name].lerp_(live, weight)
            else:
                shadow[name].copy_(live)

    def state_dict(self) -> dict[str, Any]:
        """The shadow's weights."""
        return self.model.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the shadow's weights."""
        self.model.load_state_dict(state)
