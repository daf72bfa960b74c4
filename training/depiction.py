"""What is seen in pictures of scenes: the colours by arithmetic, the animal by a judge of shapes.

Knows pixels, colours and the judge; knows nothing of how the pictures were made.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.judge import Judge
from training.scenes import COLOURS, Scene, palette

NEARLY = 0.9  # of the farthest pixel's distance
LEAST = 1e-3  # squared distance of two colours in [-1, 1], so that none is divided by zero


@dataclass(frozen=True)
class Seen:
    """Of N pictures, [N] int64 each.

    Attributes:
        animals: numbers of the judge's classes.
        colours: numbers of the named colours nearest to what stands out.
        backgrounds: numbers of those nearest to the edge of the picture.
    """

    animals: Tensor
    colours: Tensor
    backgrounds: Tensor


def look(samples: Tensor, judge: Judge) -> Seen:
    """Look at pictures [N, 3, H, W] in [-1, 1]."""
    fore, back = (nearest(found) for found in colours(samples))
    named = palette() / 127.5 - 1
    shapes = cut(samples, named[fore], named[back])
    animals = torch.from_numpy(judge.opinion(2 * shapes - 1).classes)
    return Seen(animals, fore, back)


def colours(samples: Tensor) -> tuple[Tensor, Tensor]:
    """The colour of what stands out and of the background, each [N, 3].

    The background is the median of the edge. What stands out is the median of the pixels that are nearly as far from
    the background as the farthest one: stripes and soft edges are half background.
    """
    edge = torch.ones(samples.shape[-2:], dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    back = samples[:, :, edge].median(2).values
    distance = (samples - back[:, :, None, None]).square().sum(1).sqrt()
    standing = distance >= NEARLY * distance.amax((1, 2), keepdim=True)
    inside = torch.where(standing[:, None], samples, torch.nan)
    return inside.flatten(2).nanmedian(2).values, back


def cut(samples: Tensor, fore: Tensor, back: Tensor) -> Tensor:
    """How far each pixel is on the way from one colour to the other, in [0, 1], [N, 1, H, W]: a silhouette."""
    way = (fore - back)[:, :, None, None]
    along = ((samples - back[:, :, None, None]) * way).sum(1, keepdim=True)
    return (along / way.square().sum(1, keepdim=True).clamp(LEAST)).clamp(0, 1)


def nearest(found: Tensor) -> Tensor:
    """Numbers of the named colours nearest to these, [N, 3] in [-1, 1] -> [N]."""
    return torch.cdist(found, palette() / 127.5 - 1).argmin(1)


def agreement(seen: Seen, asked: Sequence[Scene], animals: Sequence[str]) -> dict[str, float]:
    """Share of pictures in which the animal, and in which both colours are found that were asked for."""
    names = list(COLOURS)
    said = [scene.combination for scene in asked]
    animal = seen.animals == torch.tensor([animals.index(one.animal) for one in said])
    fore = seen.colours == torch.tensor([names.index(one.colour) for one in said])
    back = seen.backgrounds == torch.tensor([names.index(one.background) for one in said])
    return {"animal_found": float(animal.double().mean()), "colours_found": float((fore & back).double().mean())}
