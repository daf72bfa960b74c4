"""Changes to pictures at random, differentiable, so that few pictures teach a discriminator or a classifier more.

A GAN trained on changed pictures, real and generated alike, still makes unchanged ones as long as each change leaves
most pictures as they are (Karras et al. 2020, arXiv 2006.06676; Zhao et al. 2020, arXiv 2006.10738).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def mirrored(samples: Tensor, probability: float) -> Tensor:
    """Mirror each picture [N, C, H, W] with this probability."""
    chosen = torch.rand(len(samples), device=samples.device) < probability
    return torch.where(chosen[:, None, None, None], samples.flip(3), samples)


def shifted(samples: Tensor, pixels: int, probability: float = 1.0) -> Tensor:
    """Shift each picture [N, C, H, W] with this probability by up to so many pixels each way, background black."""
    count, _, height, width = samples.shape
    padded = F.pad(samples, [pixels] * 4, value=-1.0)
    offsets = torch.randint(0, 2 * pixels + 1, (2, count, 1), device=samples.device)
    if probability < 1.0:
        chosen = torch.rand(count, 1, device=samples.device) < probability
        offsets = torch.where(chosen, offsets, pixels)
    rows = offsets[0] + torch.arange(height, device=samples.device)
    columns = offsets[1] + torch.arange(width, device=samples.device)
    index = torch.arange(count, device=samples.device)[:, None, None]
    return padded[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
