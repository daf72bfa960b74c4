"""The energy distance between two clouds of vectors, as something to descend; knows no networks.

Szekely & Rizzo 2013, "Energy statistics"; as a loss for generators: Bellemare et al. 2017, arXiv 1705.10743. Unlike a
match of pairs it does not reward the mean of what is possible, and its gradient is unbiased in small batches.
"""

import torch
from torch import Tensor


def energy_distance(first: Tensor, second: Tensor) -> Tensor:
    """2 E|a - b| - E|a - a'| - E|b - b'| over clouds [N, D] and [M, D], a scalar estimate without bias.

    Raises:
        ValueError: a cloud has no two points.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError("an energy distance needs at least two points on each side")
    return 2 * torch.cdist(first, second).mean() - _within(first) - _within(second)


def _within(cloud: Tensor) -> Tensor:
    """Mean distance between two different points of a cloud."""
    return torch.pdist(cloud).mean()
