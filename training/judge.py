"""The judge: a classifier whose features measure generators. It lives with training and is never served."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models import checkpoint
from models.errors import CheckpointError
from training.errors import TrainingError

ARCHITECTURE = "conv-judge"
RESIDUAL = "residual-judge"


class JudgeNetwork(nn.Module):
    """A classifier: a `trunk`, which subclasses give, then the features, its penultimate layer, then the logits."""

    to_features: nn.Linear
    to_logits: nn.Linear

    def trunk(self, samples: Tensor) -> Tensor:
        """[N, C, H, W] in [-1, 1] -> [N, width]."""
        raise NotImplementedError

    def features(self, samples: Tensor) -> Tensor:
        """[N, C, H, W] in [-1, 1] -> [N, features], never negative."""
        return F.relu(self.to_features(F.dropout(self.trunk(samples), 0.3, self.training)))

    @torch.no_grad()
    def normalise_features(self, samples: Tensor) -> None:
        """Scale the features so that their mean variance over these pictures [N, C, H, W] is 1; logits stay the same.

        A ReLU commutes with a positive factor, so the factor moves from the layer before the features to the one after.
        Distances on the features then have a unit that does not depend on how the judge happened to be trained.
        """
        features = torch.cat([self.features(chunk) for chunk in torch.split(samples, 100)])
        scale = features.var(0).mean().sqrt()
        self.to_features.weight.div_(scale)
        self.to_features.bias.div_(scale)
        self.to_logits.weight.mul_(scale)

    def forward(self, samples: Tensor) -> Tensor:
        """[N, C, H, W] in [-1, 1] -> class logits [N, num_classes]."""
        out: Tensor = self.to_logits(F.dropout(self.features(samples), 0.3, self.training))
        return out


class ConvJudge(JudgeNetwork):
    """Small VGG-style classifier (Simonyan & Zisserman 2015) with batch norm."""

    def __init__(
        self,
        *,
        num_classes: int = 10,
        channels: Sequence[int] = (32, 64),
        features: int = 128,
        image_size: int = 28,
        image_channels: int = 1,
    ) -> None:
        """Build the judge; each entry of `channels` is two 3x3 convolutions, then a halving of the side."""
        super().__init__()
        self.stages = nn.ModuleList(_Stage(a, b) for a, b in pairwise([image_channels, *channels]))
        side = image_size // 2 ** len(channels)
        self.to_features = nn.Linear(channels[-1] * side * side, features)
        self.to_logits = nn.Linear(features, num_classes)

    def trunk(self, samples: Tensor) -> Tensor:
        """[N, C, H, W] in [-1, 1] -> [N, width]."""
        x = samples
        for stage in self.stages:
            x = stage(x)
        return x.flatten(1)


class _Stage(nn.Module):
    """Two convolutions, then halve the side."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(a, out_channels, 3, padding=1, bias=False) for a in (in_channels, out_channels)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(out_channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)))
        return F.max_pool2d(x, 2)


class ResidualJudge(JudgeNetwork):
    """Small residual network (He et al. 2016), its last map averaged over space: it does not see where things are."""

    def __init__(
        self,
        *,
        num_classes: int = 10,
        channels: Sequence[int] = (32, 64, 128),
        features: int = 64,
        image_channels: int = 1,
    ) -> None:
        """Build the judge; each entry of `channels` is one block, and each block halves the side."""
        super().__init__()
        self.stem = nn.Conv2d(image_channels, channels[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels[0])
        self.blocks = nn.ModuleList(_Block(a, b) for a, b in pairwise([channels[0], *channels]))
        self.to_features = nn.Linear(channels[-1], features)
        self.to_logits = nn.Linear(features, num_classes)

    def trunk(self, samples: Tensor) -> Tensor:
        """[N, C, H, W] in [-1, 1] -> [N, width]."""
        x = F.relu(self.norm(self.stem(samples)))
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))


class _Block(nn.Module):
    """Two convolutions beside a projection of the input, which is then added; halves the side."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False)
        self.second = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=2, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(out_channels) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        inner, outer, beside = self.norms
        y = outer(self.second(F.relu(inner(self.first(x)))))
        return F.relu(y + beside(self.shortcut(x)))


FOLDERS = Path(__file__).parent / "judges"
MEASURES: Mapping[str, str] = {
    "fashion-mnist": "fashion",
    "animal-mnist": "animals",
    "emoji-animals": "shapes",
}  # data -> the judge that measures
JUDGES: dict[str, type[nn.Module]] = {ARCHITECTURE: ConvJudge, RESIDUAL: ResidualJudge}


@dataclass(frozen=True)
class Opinion:
    """What the judge makes of N pictures.

    Attributes:
        features: [N, D] float64.
        classes: the class that it sees, [N] int64.
        probabilities: of each class, [N, num_classes] float64.
    """

    features: NDArray[np.float64]
    classes: NDArray[np.int64]
    probabilities: NDArray[np.float64]


@dataclass(frozen=True)
class Judge:
    """A trained judge with its digest: distances are comparable only under the same one."""

    network: JudgeNetwork
    digest: str
    num_classes: int
    data: str = ""  # what it was trained on; "" when its card does not say

    @torch.no_grad()
    def opinion(self, samples: Tensor, batch_size: int = 100) -> Opinion:
        """Look at pictures [N, C, H, W] in [-1, 1], in float32, a batch at a time."""
        device = next(self.network.parameters()).device
        features, logits = [], []
        for chunk in torch.split(samples, batch_size):
            found = self.network.features(chunk.to(device).float())
            features.append(found.double().cpu())
            logits.append(self.network.to_logits(found).double().cpu())
        seen = torch.cat(logits)
        return Opinion(torch.cat(features).numpy(), seen.argmax(1).numpy(), seen.softmax(1).numpy())


def load_judge(folder: Path | str, device: torch.device | None = None) -> Judge:
    """Load the judge of a folder, verified like any weights folder.

    Raises:
        TrainingError: the folder is missing or broken; the message says how to make one.
    """
    try:
        loaded = checkpoint.load(Path(folder), JUDGES)
    except CheckpointError as error:
        raise TrainingError(f"the judge can't be loaded: {error} (a classifier recipe trains one)") from error
    network = loaded.model
    assert isinstance(network, JudgeNetwork)  # JUDGES holds nothing else
    return Judge(
        network.to(device or torch.device("cpu")),
        loaded.config.digest[:16],
        network.to_logits.out_features,
        loaded.config.card.get("training_data", {}).get("name", ""),
    )


def judge_folder(data: str) -> Path:
    """Where the judge lies that measures generators trained on these data.

    Raises:
        TrainingError: there is none in this repository.
    """
    if data not in MEASURES:
        raise TrainingError(f"no judge for {data} (there are some for {', '.join(MEASURES)}): name one with --judge")
    return FOLDERS / MEASURES[data]


def check_impartial(name: str, card: Mapping[str, Any], judge: Judge) -> None:
    """Refuse a judge that steered the training or picked the weights: it can't measure them.

    Raises:
        TrainingError: the card names this judge as the guide.
    """
    if card.get("guide") == judge.digest:
        raise TrainingError(f"{name} was steered by the judge {judge.digest}, which therefore can't measure it")
