"""The norm of a packed network: what RMSNorm computes, in as few operations as there are.

Knows one row's arithmetic; knows no network. Eager PyTorch has no fused RMSNorm for the CPU, and for a few rows each of
its eight operations costs more than the arithmetic.
"""

import math

import torch
from torch import Tensor, nn

from models.packed_linear import Packed


class ShortRMSNorm(Packed):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich 2019), over the last dimension.

    The sum of squares is added up in float32 and its root rounded to the dtype of x, which shifts a whole row alike.
    """

    def __init__(self, norm: nn.RMSNorm, dtype: torch.dtype) -> None:
        """Take over a norm over one dimension, in the dtype of what it will get."""
        (width,), weight = norm.normalized_shape, norm.weight
        eps = torch.finfo(torch.float32).eps if norm.eps is None else norm.eps
        scale = math.sqrt(width)
        full = torch.ones(width) if weight is None else weight.detach().float()
        self._weight, self._floor = (full * scale).to(dtype), torch.tensor(scale * math.sqrt(eps), dtype=dtype)
        self.bytes = self._weight.nbytes

    def __call__(self, x: Tensor, /) -> Tensor:
        """[..., W] -> the same."""
        return x / torch.hypot(torch.linalg.vector_norm(x, 2, -1, True), self._floor) * self._weight
