"""Writes the weights folders of generators that are benchmarked but not shipped: seeded random weights, no training.

    python -m benchmarks.generators

The service and its peers then load the very same files.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import checkpoint
from models.architecture import build
from models.files import CONFIG_FILE

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build/bench/weights"
ARCHITECTURE = "dcgan"
RANDOM: Mapping[str, Mapping[str, Any]] = {
    "dcgan-28": {"channels": [128, 64], "base_size": 7, "image_channels": 1},  # 0.76 M parameters
    "dcgan-64": {"channels": [512, 256, 128, 64], "base_size": 4, "image_channels": 3},  # 3.6 M
}
SHIPPED = "fashion-gan"
NAMES = (*RANDOM, SHIPPED)
UNSATURATED = 1 - 1e-6  # a wide network's first outputs reach 1, whose inverse hyperbolic tangent is infinite


def folder_of(name: str) -> Path:
    """The weights folder of a generator; written when it is a random one that is not there yet."""
    if name not in RANDOM:
        return ROOT / "weights" / name
    folder = FOLDER / name
    if not (folder / CONFIG_FILE).exists():
        write(folder, RANDOM[name])
    return folder


def write(folder: Path, config: Mapping[str, Any]) -> None:
    """Seeded random weights with batch statistics of their own activations."""
    torch.manual_seed(0)
    model = build(ARCHITECTURE, config)
    _settle(model)
    card = {"description": "Random weights, for benchmarks only."}
    checkpoint.save(folder, model, architecture=ARCHITECTURE, config=config, card=card)


def _settle(model: nn.Module) -> None:
    """As training would: statistics that match the activations, and an output neither flat nor clipped."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a cumulative average
    last = [module for module in model.modules() if isinstance(module, nn.ConvTranspose2d)][-1]
    latents, labels = torch.randn(256, *model.latent_shape), torch.zeros(256, dtype=torch.long)
    with torch.no_grad():
        out = model.train().decode(latents, labels).clamp(-UNSATURATED, UNSATURATED).atanh()
        last.weight.div_(out.std())
    model.eval()


if __name__ == "__main__":
    for name in RANDOM:
        print(folder_of(name))
