"""Fills the hole of a picture with what a model makes of the rest: where to begin, what counts, which result is best.

After Yeh et al. 2017, arXiv 1607.07539. Knows pixels, latents and the engine, which does the search; knows neither HTTP
nor files.
"""

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app import latents
from app.codecs import AI_EDITED
from app.engine.engine import Engine
from app.engine.jobs import Labels, LatentJob, Latents, ModelInfo, Pictures, RefineJob, encoder_of, inpainter_of
from app.engine.terms import Terms
from app.errors import InvalidField
from app.plan import Plan

CANDIDATES = 64  # random latents that are looked at
STARTS = 4  # of them are improved, the best by what is known
WINDOW = 7  # pixels a side: known ones with so much hole around them count most
INLINE_VALUES = 1 << 16  # of pictures that are compared at once; more would hold up other requests
LEAST_WEIGHT = 0.2  # of a known pixel far from the hole, where one that is all but inside it has 1

Mask = NDArray[np.bool_]  # [H, W], true where a picture is to be filled


@dataclass(frozen=True, slots=True)
class Hole:
    """A picture, and what of it is not known.

    Attributes:
        picture: [H, W, C].
        mask: [H, W], of which some is true and some is not.
        weights: [H, W], how much each pixel counts; 0 inside the hole, and 1 in all.
    """

    picture: Pictures
    mask: Mask
    weights: NDArray[np.float32]

    def distances(self, pictures: Pictures) -> NDArray[np.float64]:
        """How far the known pixels are from those of pictures [n, H, W, C], in grey levels: [n]."""
        apart = np.abs(pictures.astype(np.int16) - self.picture).mean(3)
        found: NDArray[np.float64] = (apart * self.weights).sum((1, 2), dtype=np.float64)
        return found

    def filled(self, picture: Pictures) -> Pictures:
        """The known pixels, and in the hole those of another picture [H, W, C]."""
        return np.where(self.mask[:, :, None], picture, self.picture)


@dataclass(frozen=True, slots=True)
class Start:
    """Latents [n, *latent_shape] with labels [n], and the pictures [n, H, W, C] that a model makes of them."""

    latents: Latents
    labels: Labels
    pictures: Pictures

    def best(self, hole: Hole, count: int) -> "Start":
        """The few whose pictures are closest to what is known."""
        chosen = np.argsort(hole.distances(self.pictures), kind="stable")[:count]
        return Start(self.latents[chosen], self.labels[chosen], self.pictures[chosen])


def hole_of(picture: Pictures, mask: Mask, field: str) -> Hole:
    """A picture [H, W, C] with a hole; `field` says where the mask came from.

    Raises:
        InvalidField: there is nothing to fill, or nothing known.
    """
    where = "white" if field == "mask" else "transparent"
    if not mask.any():
        raise InvalidField(f"{field}: nothing of it is {where}, so there is nothing to fill", field=field)
    if mask.all():
        raise InvalidField(f"{field}: all of it is {where}, so nothing is known of the picture", field=field)
    weights = np.where(mask, 0.0, LEAST_WEIGHT + (1 - LEAST_WEIGHT) * _share_around(mask))
    return Hole(picture, mask, (weights / weights.sum()).astype(np.float32))


def _share_around(mask: Mask) -> NDArray[np.float64]:
    """For each pixel, how much of the window around it is hole."""
    padded = np.pad(mask.astype(np.float64), WINDOW // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (WINDOW, WINDOW))
    share: NDArray[np.float64] = windows.mean((2, 3))
    return share


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to search.

    Attributes:
        info: of the model, which inpaints.
        label: of the picture; None for the one that fits best.
        seed: of the first candidate.
        steps: of the search.
    """

    info: ModelInfo
    label: int | None
    seed: int
    steps: int

    def candidates(self) -> tuple[Latents, Labels]:
        """Random latents, of labels drawn with them unless one is given."""
        info = self.info
        draw = latents.styled_from_seed if info.styles else latents.from_seed
        drawn = [draw(self.seed + j, info.latent_shape, info.num_classes) for j in range(CANDIDATES)]
        labels = [own if self.label is None else self.label for _, own in drawn]
        return np.stack([latent for latent, _ in drawn]), np.array(labels, np.int64)

    def job(self, z: Latents, labels: Labels, hole: Hole) -> RefineJob:
        """What improves these latents."""
        name = inpainter_of(self.info.name)
        return RefineJob(name, z, labels, steps=self.steps, target=hole.picture, weights=hole.weights)


def drawn_seed(seed: int | None) -> int:
    """The seed of a request, or another; further candidates have the next ones.

    Raises:
        InvalidField: there are not so many after it.
    """
    if seed is not None and seed + CANDIDATES - 1 > latents.MAX_SEED:
        raise InvalidField(f"seed: seed + {CANDIDATES - 1} must not exceed {latents.MAX_SEED}", field="seed")
    return random.randrange(latents.MAX_SEED - CANDIDATES) if seed is None else seed  # noqa: S311


class Inpainter:
    """The search, through the lanes of one model."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def search(self, wanted: Wanted, hole: Hole, terms: Terms, deadline: float) -> Start:
        """The latent whose picture is closest to what is known of one; a single row.

        The search begins with the best of many random latents, and with what the model's encoder, if it has one, makes
        of the picture with its hole filled by the best of those.

        Args:
            wanted: how to search.
            hole: the picture, of the model's shape.
            terms: of the request.
            deadline: of all of it, by the loop's clock.

        Raises:
            GenserveError: the engine refuses or fails it.
        """
        z, labels = wanted.candidates()
        start = await _best(await self._shown(wanted.info, z, labels, terms.left(deadline)), hole, STARTS)
        z, labels = await self._with_encoded(wanted.info, start, hole, terms, deadline)
        z = await self._engine.submit(wanted.job(z, labels, hole), terms.onward(deadline))
        return await _best(await self._shown(wanted.info, z, labels, terms.onward(deadline)), hole, 1)

    async def _shown(self, info: ModelInfo, z: Latents, labels: Labels, terms: Terms) -> Start:
        return Start(z, labels, await self._engine.submit(LatentJob(info.name, z, labels), terms))

    async def _with_encoded(
        self, info: ModelInfo, start: Start, hole: Hole, terms: Terms, deadline: float
    ) -> tuple[Latents, Labels]:
        """The starts, the last of which makes room for the encoder's, where the model has one."""
        if not info.encodes:
            return start.latents, start.labels
        job = LatentJob(encoder_of(info.name), hole.filled(start.pictures[0])[None], start.labels[:1])
        encoded = await self._engine.submit(job, terms.onward(deadline))
        places = [0, *range(len(start.labels) - 1)]
        return np.concatenate([encoded, start.latents[:-1]]), start.labels[places]


async def _best(start: Start, hole: Hole, count: int) -> Start:
    """The few whose pictures are closest to what is known; looked for in a thread where that takes longer."""
    if start.pictures.size <= INLINE_VALUES:
        return start.best(hole, count)
    return await asyncio.to_thread(start.best, hole, count)


def plan_filled(wanted: Wanted, found: Start, hole: Hole, scale: int) -> Plan:
    """The plan that a filled picture would have had, for its encoding, with its story."""
    info, label = wanted.info, int(found.labels[0]) if wanted.info.num_classes else None
    story: dict[str, Any] = {"seed": wanted.seed, "steps": wanted.steps, "filled": int(hole.mask.sum())}
    story |= {"label": label} if label is not None else {}
    story |= {"critic": info.critic[:12]} if info.critic else {}
    story |= {"scale": scale} if scale > 1 else {}
    job = LatentJob(info.name, found.latents, found.labels)
    return Plan(info, job, wanted.seed, (wanted.seed,), (label,), ({"inpaint": story},), scale, source=AI_EDITED)
