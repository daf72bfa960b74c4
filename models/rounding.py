"""Rounding weights to 8 and 4 bits so that the rounded ones stay close.

Knows tensors alone; knows no kernel and no network.
"""

import torch
from torch import Tensor

GROUP = 32  # inputs that share a scale in 4 bits; with 64 the perplexity of a small model is tens of per cent higher
LEVELS = 15  # steps of 4 bits
SHRUNK = (0.95, 0.9, 0.85, 0.8)  # parts of a group's range that are tried: the outermost weights are cut off there
CLOSE = 0.01  # squared steps a weight: groups with less were in 4 bits before; rounding anything else leaves 1 / 12
SMALLEST = 1e-8  # no scale is 0

Rounded = tuple[Tensor, Tensor, Tensor]  # codes 0..15 as floats [N, G, 32], (scale, middle) bfloat16 and errors [N, G]


def round_to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int8 [N, K] in -127..127 and float32 scales [N], so that weight [N, K] is about codes * scales."""
    scales = (torch.linalg.vector_norm(weight, torch.inf, 1, dtype=torch.float32) / 127).clamp_min(SMALLEST)
    return (weight / scales[:, None]).round_().to(torch.int8), scales


def round_to_int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in 0..15, int32 [N, K], and bfloat16 (scale, middle) of each group, [K / 32, N, 2].

    Weight [N, K] is about (codes - 8) * scale + middle. Of a group's whole range and some that are cut at both ends,
    the one with the least squared error is taken, measured with scales as they are kept.
    """
    groups = weight.float().view(len(weight), -1, GROUP)
    low, high = groups.aminmax(dim=-1)
    codes, kept, errors = _between(groups, low, high)
    if bool((errors > CLOSE * kept[..., 0].float().square()).any()):
        for part in SHRUNK:
            cut = (high - low) * ((1 - part) / 2)
            others = _between(groups, low + cut, high - cut)
            better = (others[2] < errors).unsqueeze(-1)
            codes, kept = torch.where(better, others[0], codes), torch.where(better, others[1], kept)
            errors = torch.minimum(errors, others[2])
    return codes.flatten(1).int(), kept.transpose(0, 1).contiguous()


def _between(groups: Tensor, low: Tensor, high: Tensor) -> Rounded:
    """Groups [N, G, 32] rounded between bounds [N, G], with the mean squared error of each."""
    scales = ((high - low) / LEVELS).clamp_min(SMALLEST).bfloat16()
    middles = (low + scales.float() * 8).bfloat16()
    wide = scales.float().unsqueeze(-1)
    exact = (groups - middles.float().unsqueeze(-1)).div_(wide).add_(8)
    codes = exact.round().clamp_(0, LEVELS)
    errors = exact.sub_(codes).square_().mean(-1) * scales.float().square()
    return codes, torch.stack([scales, middles], -1), errors
