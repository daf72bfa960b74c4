"""The best network that a run has come across, by a judge that does not measure the result."""

import copy

import torch
from torch import Tensor, nn

FAR = 1e30  # no distance yet; finite, because a snapshot holds no infinite values


class Best(nn.Module):
    """A copy of a network as it was when a distance was the least; a module, so that snapshots hold it."""

    distance: Tensor

    def __init__(self, network: nn.Module) -> None:
        """Nothing is kept yet."""
        super().__init__()
        self.model = copy.deepcopy(network)
        self.register_buffer("distance", torch.tensor(FAR, dtype=torch.float64))

    @property
    def found(self) -> bool:
        """Whether anything was offered."""
        return float(self.distance) < FAR

    @torch.no_grad()
    def offer(self, network: nn.Module, distance: float) -> None:
        """Keep a copy of this network if it is closer than all before."""
        if distance < float(self.distance):
            self.distance.fill_(distance)
            self.model.load_state_dict(network.state_dict())
