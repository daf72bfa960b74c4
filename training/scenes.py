"""Coloured animals on coloured backgrounds, made of silhouettes, and what they are called.

Knows colours, sizes, captions and which combinations are held out; knows no files and no networks.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.animals import read_animals

Array = np.ndarray[Any, np.dtype[np.uint8]]

SIDE = 32
SOFT = (0.0, 0.6, 1.0)  # pixels of blur with which a judge of shapes is trained: what is drawn is seldom sharp
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (250, 220, 40),
    "green": (40, 150, 60),
    "blue": (40, 90, 210),
    "purple": (130, 50, 160),
    "pink": (250, 150, 190),
    "brown": (120, 75, 40),
    "black": (20, 20, 20),
    "white": (250, 250, 250),
}
SIZES: Mapping[str, int] = {"small": 20, "large": 30}  # pixels of an animal's longer side
FULL = "a {size} {colour} {animal} on a {background} background"
CAPTIONS = (
    FULL,
    "a {colour} {animal} on a {background} background",
    "{size} {colour} {animal} on {background}",
    "{colour} {animal}, {background} background",
    "a {size} {animal} on a {background} background",
    "a {animal}",
)
FAINT = 64  # of 255: what is darker is not part of a silhouette when its edges are looked for


@dataclass(frozen=True)
class Combination:
    """What a caption names besides the size."""

    animal: str
    colour: str
    background: str


@dataclass(frozen=True)
class Scene:
    """One picture to be made: a combination at a size, as words."""

    combination: Combination
    size: str

    def caption(self, form: str = FULL) -> str:
        """What it is called, in one of the forms of `CAPTIONS`."""
        said = form.format(size=self.size, **vars(self.combination))
        words = said.split(" ")
        pairs = itertools.pairwise([*words, ""])
        return " ".join("an" if word == "a" and follows[:1] in tuple("aeiou") else word for word, follows in pairs)


def combinations(animals: Sequence[str]) -> list[Combination]:
    """All of them: an animal never has the colour of its background."""
    pairs = list(itertools.permutations(COLOURS, 2))
    return [Combination(animal, *pair) for animal in animals for pair in pairs]


def split_combinations(
    animals: Sequence[str], held_out: float, seed: int
) -> tuple[list[Combination], list[Combination]]:
    """Seen and held-out combinations.

    The rule: they lie in the order of the sha256 of "SEED ANIMAL COLOUR BACKGROUND", and the first `held_out` share of
    all is held out.
    """

    def place(one: Combination) -> bytes:
        return hashlib.sha256(f"{seed} {one.animal} {one.colour} {one.background}".encode()).digest()

    order = sorted(combinations(animals), key=place)
    first = round(held_out * len(order))
    return order[first:], order[:first]


def coverage(silhouettes: Tensor) -> Tensor:
    """Silhouettes [N, 1, H, W] uint8 as they stand in scenes of each size, [sizes, N, SIDE, SIDE] uint8.

    Each is cut to what it shows, which is scaled to the size and put into the middle.
    """
    cut = [_cut(picture) for picture in silhouettes[:, 0]]
    return torch.stack([torch.stack([_placed(part, size) for part in cut]) for size in SIZES.values()])


def _cut(picture: Tensor) -> Tensor:
    """The smallest part of [H, W] that holds all that can be seen; all of it when there is nothing."""
    seen = picture > FAINT
    if not bool(seen.any()):
        return picture
    rows, columns = seen.any(1).nonzero()[:, 0], seen.any(0).nonzero()[:, 0]
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _placed(part: Tensor, size: int) -> Tensor:
    """[h, w] with its longer side at `size`, in the middle of [SIDE, SIDE]."""
    scale = size / max(part.shape)
    sides = [max(1, round(side * scale)) for side in part.shape]
    scaled = F.interpolate(part[None, None].float(), size=sides, mode="bilinear", antialias=True)[0, 0]
    top, left = ((SIDE - side) // 2 for side in sides)
    bottom, right = SIDE - sides[0] - top, SIDE - sides[1] - left
    return F.pad(scaled, (left, right, top, bottom)).round().clamp(0, 255).byte()


def read_shapes(folder: Path, contents: Mapping[str, bytes]) -> tuple[Array, Array, Array, Array]:
    """Training silhouettes [N, SIDE, SIDE] as they stand in scenes of each size, sharp and blurred, and labels [N].

    Then those of the test split and theirs: of each size, all sharp. The files are those of `training.animals`.

    Raises:
        TrainingError: a file is not what it should be.
    """
    train, labels, test, test_labels = read_animals(folder, contents)
    shapes = coverage(torch.from_numpy(train.copy()).unsqueeze(1)).flatten(0, 1)
    softened = torch.cat([soften(shapes, width) for width in SOFT])
    tested = coverage(torch.from_numpy(test.copy()).unsqueeze(1)).flatten(0, 1)
    times = len(softened) // len(labels)
    return softened.numpy(), np.tile(labels, times), tested.numpy(), np.tile(test_labels, len(SIZES))


def soften(shapes: Tensor, width: float) -> Tensor:
    """Blur [N, H, W] uint8 by a Gaussian of this deviation, in pixels; what lies outside is black."""
    if not width:
        return shapes
    reach = int(np.ceil(2 * width))
    weights = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * width**2))
    rows = (weights / weights.sum()).view(1, 1, 1, -1)
    blurred = F.conv2d(F.conv2d(shapes[:, None].float(), rows, padding=(0, reach)), rows.mT, padding=(reach, 0))
    return blurred.squeeze(1).round().byte()


def paint(covered: Tensor, colours: Tensor, backgrounds: Tensor) -> Tensor:
    """Scenes: how far each pixel is covered [N, SIDE, SIDE] uint8, colours [N, 3] in 0..255 -> [N, 3, SIDE, SIDE]."""
    share = covered.float()[:, None] / 255
    fore, back = colours.float()[:, :, None, None], backgrounds.float()[:, :, None, None]
    return back + share * (fore - back)


def palette() -> Tensor:
    """The named colours, [colours, 3] in 0..255."""
    return torch.tensor(list(COLOURS.values()))


@dataclass(frozen=True)
class Drawn:
    """Scenes that were drawn at random, as numbers: [N] each.

    Attributes:
        silhouettes: which silhouette.
        mirrored: whether it looks the other way.
        sizes: number of its size.
        colours: number of its colour.
        backgrounds: number of the background's colour.
    """

    silhouettes: Tensor
    mirrored: Tensor
    sizes: Tensor
    colours: Tensor
    backgrounds: Tensor

    def pictures(self, covered: Tensor, index: Tensor) -> Tensor:
        """Those with these indices [B], of silhouettes covered [sizes, M, SIDE, SIDE]: [B, 3, SIDE, SIDE], 0..255."""
        found = covered[self.sizes[index], self.silhouettes[index]]
        found = torch.where(self.mirrored[index, None, None], found.flip(-1), found)
        named = palette().to(covered.device)
        return paint(found, named[self.colours[index]], named[self.backgrounds[index]])

    def scenes(self, labels: Tensor, animals: Sequence[str]) -> list[Scene]:
        """What they show in words; labels [M] of the silhouettes."""
        names, sizes = list(COLOURS), list(SIZES)
        numbers = zip(labels[self.silhouettes].tolist(), *(x.tolist() for x in self._said), strict=True)
        return [Scene(Combination(animals[a], names[c], names[b]), sizes[s]) for a, c, b, s in numbers]

    @property
    def _said(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.colours, self.backgrounds, self.sizes


def draw(count: int, labels: Tensor, animals: Sequence[str], chosen: Sequence[Combination], seed: int) -> Drawn:
    """Draw scenes: every silhouette equally often, any of the chosen combinations of its animal, any size and side.

    Args:
        count: of scenes.
        labels: of the silhouettes, [M].
        animals: names of the labels.
        chosen: combinations that may be drawn; some of each animal.
        seed: of all that is drawn.
    """
    random = np.random.default_rng(seed)
    names = list(COLOURS)
    pairs = {
        label: [(names.index(one.colour), names.index(one.background)) for one in chosen if one.animal == animal]
        for label, animal in enumerate(animals)
    }
    rounds = random.random((-(-count // len(labels)), len(labels)))
    silhouettes = rounds.argsort(1).reshape(-1)[:count]
    own = [pairs[label] for label in labels[torch.from_numpy(silhouettes)].tolist()]
    chances = zip(own, random.random(count), strict=True)
    picked = np.array([pair[int(share * len(pair))] for pair, share in chances], np.int64).reshape(count, 2)
    mirrored, sizes = random.random(count) < 0.5, random.integers(len(SIZES), size=count)
    return Drawn(*(torch.from_numpy(x) for x in (silhouettes, mirrored, sizes, picked[:, 0], picked[:, 1])))
