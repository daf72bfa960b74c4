"""Rounding weights to 8 and 4 bits so that the rounded ones stay close.

Knows tensors alone; knows no kernel and no network.
"""

import torch
from torch import Tensor

GROUP = 32  # inputs that share a scale in 4 bits; with 64 the perplexity of a small model is tens of per cent higher
LEVELS = 15  # steps of 4 bits
SMALLEST = 1e-8  # no scale is 0


def round_to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int8 [N, K] in -127..127 and float32 scales [N], so that weight [N, K] is about codes * scales."""
    scales = (torch.linalg.vector_norm(weight, torch.inf, 1, dtype=torch.float32) / 127).clamp_min(SMALLEST)
    return (weight / scales[:, None]).round_().to(torch.int8), scales


def round_to_int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in 0..15, int32 [N, K], and bfloat16 (scale, middle) of each group, [K / 32, N, 2].

    Weight [N, K] is about (codes - 8) * scale + middle; codes are chosen for scales as they are kept. A group's range
    is that of all its weights: cutting it where that lessens the squared error makes perplexity worse.
    """
    groups = weight.float().view(len(weight), -1, GROUP)
    low, high = groups.aminmax(dim=-1)
    scales = ((high - low) / LEVELS).clamp_min_(SMALLEST).bfloat16()
    middles = (low + scales.float() * 8).bfloat16()
    exact = (groups - middles.float().unsqueeze(-1)).div_(scales.float().unsqueeze(-1)).add_(8)
    codes = exact.round_().clamp_(0, LEVELS).flatten(1).int()
    return codes, torch.stack([scales, middles], -1).transpose(0, 1).contiguous()
