"""What is said when: the characters of a transcript, spread over the frames of a clip.

Knows characters, durations and frames; knows nothing of samples or of the network that listens. Every character takes
a share of the clip that follows from what it is and what stands around it, and frames look at the characters near
them through a Gaussian window as wide as the character (Shen et al. 2020, arXiv 2010.04301). The shares are learnt
with the rest, from nothing but how well a frame then knows its sound.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EDGE = 0  # the number of what stands before and after a transcript
KERNEL = 5
REACH = 4  # frames between two that the last layer looks at: mouths move ahead of what they say
SOFTNESS = 0.5  # deviation of a window, in durations of its character


class Transcript(nn.Module):
    """From a transcript and the length of a clip to one vector a frame."""

    def __init__(self, *, characters: int, width: int, features: int) -> None:
        """Build the network.

        Args:
            characters: how many there are; they are numbered from 1.
            width: of a character's vector.
            features: of a frame's vector.
        """
        super().__init__()
        self.embedding = nn.Embedding(characters + 1, width)
        self.context = nn.ModuleList(nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2) for _ in range(2))
        self.duration = nn.Linear(width, 1)
        self.blend = nn.Conv1d(width + 1, width, KERNEL, padding=KERNEL // 2)
        self.out = nn.Conv1d(width, features, KERNEL, padding=KERNEL // 2 * REACH, dilation=REACH)
        nn.init.zeros_(self.duration.weight)  # every character equally long, to begin with
        nn.init.zeros_(self.duration.bias)

    def forward(self, characters: Tensor, frames: int) -> Tensor:
        """Numbers of characters [C] and frames of the clip -> [frames, features]."""
        x = self._read(F.pad(characters, (1, 1), value=EDGE))
        durations = F.softplus(self.duration(x.T)[:, 0].float())
        durations = durations * (frames / durations.sum())
        windows, places = _windows(durations, frames)
        spread = torch.cat([windows.to(x.dtype) @ x.T, places.to(x.dtype)[:, None]], 1)
        out: Tensor = self.out(F.relu(self.blend(spread.T)))
        return out.T

    def _read(self, characters: Tensor) -> Tensor:
        """Characters [C] in their context, [width, C]."""
        x: Tensor = self.embedding(characters).T
        for layer in self.context:
            x = x + F.relu(layer(x))
        return x


def _windows(durations: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """How much each frame looks at each character, [F, C], for durations [C] in frames; and where in it, [F]."""
    centres = durations.cumsum(0) - durations / 2
    deviations = (SOFTNESS * durations).clamp_min(SOFTNESS)
    times = torch.arange(frames, device=durations.device) + 0.5
    distances = (times[:, None] - centres) / deviations
    windows = torch.softmax(-0.5 * distances**2 - deviations.log(), 1)
    return windows, (windows * distances).sum(1)
