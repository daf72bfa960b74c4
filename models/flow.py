"""Real NVP (Dinh, Sohl-Dickstein & Bengio 2017, arXiv 1605.08803) over vectors: an invertible map with exact density.

Knows vectors and labels; what they stand for is the business of the model that owns the flow.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_LOG_SCALE = 2.0  # of one layer: no vector is stretched or shrunk beyond what bf16 can undo


class CouplingFlow(nn.Module):
    """Affine couplings that take turns on the two halves of a vector, each steered by the other half and the label.

    A fresh flow only swaps halves: it begins as a standard normal.
    """

    def __init__(self, *, dim: int, layers: int, width: int, num_classes: int, embedding_dim: int) -> None:
        """Build the flow.

        Args:
            dim: length of a vector, even.
            layers: couplings, at least two, so that every entry is moved.
            width: hidden units of each coupling.
            num_classes: 0 for a flow without labels.
            embedding_dim: length of a label's embedding.

        Raises:
            ValueError: `dim` is odd, or a size is too small.
        """
        super().__init__()
        if dim < 2 or dim % 2:
            raise ValueError(f"a flow needs vectors of even length, got {dim}")
        if layers < 2 or width < 1:
            raise ValueError(f"a flow needs 2 layers and a width of 1 or more, got {layers} and {width}")
        extra = embedding_dim if num_classes else 0
        self.embedding = nn.Embedding(num_classes, embedding_dim) if num_classes else None
        self.couplings = nn.ModuleList(_Coupling(dim // 2, extra, width) for _ in range(layers))

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Standard normal [N, dim], labels [N] -> draws of the flow's distribution, [N, dim]."""
        still, moved = noise.chunk(2, dim=1)
        label = None if self.embedding is None else self.embedding(labels)
        for coupling in self.couplings:
            log_scale, shift = coupling(still, label)
            still, moved = moved * log_scale.exp() + shift, still
        return torch.cat([still, moved], dim=1)

    def inverse(self, vectors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Back from vectors [N, dim] to the noise [N, dim], with log |d noise / d vectors|, [N]."""
        still, moved = vectors.chunk(2, dim=1)
        label = None if self.embedding is None else self.embedding(labels)
        log_det = torch.zeros_like(vectors[:, 0])
        for coupling in reversed(self.couplings):
            log_scale, shift = coupling(moved, label)
            still, moved = moved, (still - shift) * (-log_scale).exp()
            log_det = log_det - log_scale.sum(1)
        return torch.cat([still, moved], dim=1), log_det


class _Coupling(nn.Module):
    """One hidden layer from half a vector and a label to the log scale and shift of the other half."""

    def __init__(self, half: int, extra: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(half + extra, width)
        self.out = nn.Linear(width, 2 * half)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, still: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        x = still if label is None else torch.cat([still, label], dim=1)
        log_scale, shift = self.out(F.leaky_relu(self.hidden(x), 0.2)).chunk(2, dim=1)
        return MAX_LOG_SCALE * torch.tanh(log_scale / MAX_LOG_SCALE), shift
