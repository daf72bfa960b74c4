"""From a request for pictures to latents, labels and the story of each picture.

Knows requests and what a model takes; submits nothing and encodes nothing.
"""

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app import controls, latents
from app.animation import DURATION_MS, Animation
from app.codecs import AI_GENERATED, Provenance
from app.engine.jobs import LatentJob, Latents, ModelInfo, RefineJob, sampler_of
from app.errors import InvalidField
from app.schemas.captions import CaptionFields
from app.schemas.images import MAX_IMAGES, ImageRequest, MixPart

MAX_LATENT = 1e6  # either way; standard normal ones never reach 10
LEAST_SUM = 0.01  # of the weights of a mix, as a share of what they would add up to were none negative

# What a way of saying which latents leaves no room for.
BESIDE: Mapping[str, tuple[str, ...]] = {
    "latents": ("seed", "truncation", "interpolate", "mix", "style_seed", "style_from", "sampler"),
    "interpolate": ("n", "seed", "mix", "sampler"),
    "mix": ("n", "seed", "style_seed", "style_from", "sampler"),
    "sampler": ("truncation", "controls"),  # which it would not keep
}
SAMPLER_STEPS = 25

OF_CAPTIONS = ("prompt", *CaptionFields.model_fields)  # what only models that draw captions take


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request comes to: a job for the engine, what makes its latents first, and the story of each picture."""

    info: ModelInfo
    job: LatentJob
    seed: int | None
    seeds: tuple[int | None, ...]
    labels: tuple[int | None, ...]
    parameters: tuple[dict[str, Any], ...]
    scale: int
    animation: Animation | None = None
    sampling: RefineJob | None = None
    source: str = AI_GENERATED

    @property
    def shown(self) -> int:
        """How many pictures the answer shows; an animation may show one twice."""
        return self.job.rows if self.animation is None else len(self.animation.order(self.job.rows))

    @property
    def told(self) -> list[tuple[int | None, int | None]]:
        """Seed and label of each file of its own; an animation is one, and its label that of every frame."""
        each = list(zip(self.seeds, self.labels, strict=True))
        return each if self.animation is None else each[:1]

    def provenance(self, index: int) -> Provenance:
        """Of one picture."""
        return Provenance(self.info.identity, self.parameters[index], self.source)

    def sheet_provenance(self) -> Provenance:
        """Of all pictures on one sheet."""
        if len(self.seeds) == 1:
            return self.provenance(0)
        return Provenance(self.info.identity, {**self._shared(), "grid": len(self.seeds)})

    def animation_provenance(self, animation: Animation) -> Provenance:
        """Of all pictures as frames."""
        return Provenance(self.info.identity, {**self._shared(), **animation.story()})

    def _shared(self) -> dict[str, Any]:
        """What does not differ from picture to picture, and the first one's seed."""
        first, *others = self.parameters
        return {k: v for k, v in first.items() if k == "seed" or all(other.get(k) == v for other in others)}


def plan_images(request: ImageRequest, info: ModelInfo) -> Plan:
    """From a request to latents and labels.

    Raises:
        InvalidField: fields contradict each other or do not fit the model.
    """
    _check_combination(request)
    _check_source(request, info)
    label = resolve_label(request.label, info)
    if request.latents is not None:
        return _plan_latents(request, info, label, request.latents)
    if request.interpolate is not None:
        return _plan_interpolation(request, info, label)
    if request.mix is not None:
        return _plan_mix(request, info, label, request.mix)
    return _plan_seeds(request, info, label)


def _check_combination(request: ImageRequest) -> None:
    for given, others in BESIDE.items():
        if getattr(request, given) is not None:
            for field in others:
                if getattr(request, field) is not None:
                    raise InvalidField(f"{field}: has no meaning beside {given}", field=field)
    if request.steps is not None and request.sampler is None:
        raise InvalidField("steps: has no meaning without sampler", field="steps")


def _check_source(request: ImageRequest, info: ModelInfo) -> None:
    """Refuse what belongs to captions, and seeds or mixtures where a sequence model writes the latents.

    Raises:
        InvalidField: a field is one of those, or codes are missing.
    """
    for field in OF_CAPTIONS:
        if getattr(request, field) is not None:
            raise InvalidField(f"{field}: {info.name} does not draw captions", field=field)
    for field in ("mix", "interpolate"):
        if info.codes and getattr(request, field) is not None:
            raise InvalidField(f"{field}: {info.name} takes codes, between which there is nothing", field=field)
    if info.codes and request.latents is None:
        wants = f"{info.name} makes pictures of codes and draws none itself: give it latents"
        raise InvalidField(f"model: {wants}{info.codes_from and f', or ask {info.codes_from}'}", field="model")


def _animation(request: ImageRequest) -> Animation | None:
    """How the pictures of a request are to follow each other; None where each stands still.

    Raises:
        InvalidField: there is no walk to be shown, or no animation to which a field belongs.
    """
    if request.format != "webp-animation" and request.format != "apng":
        for field in ("duration_ms", "loop"):
            if getattr(request, field) is not None:
                raise InvalidField(f'{field}: belongs to format "webp-animation" or "apng"', field=field)
        return None
    if request.interpolate is None:
        raise InvalidField(f"format: {request.format} shows a walk, and there is no interpolate", field="format")
    return Animation(request.format, request.duration_ms or DURATION_MS, request.loop or "forever")


def resolve_label(label: int | str | None, info: ModelInfo, field: str = "label") -> int | None:
    """A label's index from its index or its name, given in this field.

    Raises:
        InvalidField: the model has no such label, or no labels at all.
    """
    if label is None:
        return None
    if not info.num_classes:
        raise InvalidField(f"{field}: {info.name} is unconditional", field=field)
    if isinstance(label, str):
        if label not in info.labels:
            known = ", ".join(info.labels) or "(no names)"
            raise InvalidField(f"{field}: {label!r} is not one of {known}", field=field)
        return info.labels.index(label)
    if label >= info.num_classes:
        raise InvalidField(f"{field}: {label} is not below {info.num_classes}", field=field)
    return label


def require_label(label: int | str | None, info: ModelInfo) -> int | None:
    """The label of a picture that is there already: nothing can draw it; None for an unconditional model.

    Raises:
        InvalidField: it is missing, or the model has no such label, or no labels at all.
    """
    if label is None and info.num_classes:
        known = ", ".join(info.labels) or f"an index below {info.num_classes}"
        raise InvalidField(f"label: {info.name} has to be told what the picture shows: {known}", field="label")
    return resolve_label(label, info)


def _plan_seeds(request: ImageRequest, info: ModelInfo, label: int | None) -> Plan:
    n = request.n or 1
    seed = random.randrange(latents.MAX_SEED - MAX_IMAGES) if request.seed is None else request.seed  # noqa: S311
    if seed + n - 1 > latents.MAX_SEED:
        raise InvalidField(f"seed: seed + n - 1 must not exceed {latents.MAX_SEED}", field="seed")
    draw = latents.styled_from_seed if info.styles else latents.from_seed
    drawn = [draw(seed + j, info.latent_shape, info.num_classes) for j in range(n)]
    z = drawn[0][0][None] if n == 1 else np.stack([latent for latent, _ in drawn])
    extra = _adjust(request, info, z)
    labels = [own if label is None else label for _, own in drawn]
    extra |= (sampled := _sampled(request, info))
    stories = [{"seed": seed + j, **extra} for j in range(n)]
    plan = _plan(request, info, z, labels, seed, tuple(range(seed, seed + n)), stories)
    return replace(plan, sampling=_sampling(plan, sampled["steps"])) if sampled else plan


def _sampled(request: ImageRequest, info: ModelInfo) -> dict[str, Any]:
    """What the story tells of the sampler; nothing when none was asked for.

    Raises:
        InvalidField: the model has no critic to sample by, or there are steps of nothing.
    """
    if request.sampler is None:
        return {}
    if not info.sample_seconds:
        raise InvalidField(f"sampler: {info.name} has no critic to sample by", field="sampler")
    return {"sampler": request.sampler, "steps": request.steps or SAMPLER_STEPS, "critic": info.critic[:12]}


def _sampling(plan: Plan, steps: int) -> RefineJob:
    """What moves the latents of a plan before its pictures are made; the noise of each is its own seed's."""
    job = plan.job
    name, seeds = sampler_of(plan.info.name), np.array(plan.seeds, np.int64)
    return RefineJob(name, job.inputs, job.labels, steps=steps, seeds=seeds)


def _adjust(request: ImageRequest, info: ModelInfo, z: Latents) -> dict[str, Any]:
    """Mix styles into drawn latents [n, *latent_shape] and shorten them, in place; what the story tells of it.

    Raises:
        InvalidField: the model has no styles, or not so many.
    """
    extra: dict[str, Any] = {}
    if request.style_seed is not None or request.style_from is not None:
        extra = _mix_styles(request, info, z)
    if request.truncation is not None:
        z *= np.float32(request.truncation)
        extra["truncation"] = request.truncation
    return extra


def _mix_styles(request: ImageRequest, info: ModelInfo, z: Latents) -> dict[str, Any]:
    """Style mixing (Karras et al. 2019): the finer rows of all latents are those of one other seed."""
    field = "style_seed" if request.style_seed is not None else "style_from"
    if not info.styles:
        raise InvalidField(f"{field}: {info.name} has no styles", field=field)
    if request.style_seed is None:
        raise InvalidField("style_from: has no meaning without style_seed", field="style_from")
    first = (info.styles + 1) // 2 if request.style_from is None else request.style_from
    if first >= info.styles:
        raise InvalidField(f"style_from: {info.name} has styles 0 to {info.styles - 1}", field="style_from")
    z[:, first:] = latents.styled_from_seed(request.style_seed, info.latent_shape, info.num_classes)[0][first:]
    return {"style_seed": request.style_seed, "style_from": first}


def _plan_latents(request: ImageRequest, info: ModelInfo, label: int | None, given: list[Any]) -> Plan:
    shape = info.latent_shape
    if _count(given, MAX_IMAGES * math.prod(shape)) > MAX_IMAGES * math.prod(shape):
        raise InvalidField(f"latents: more numbers than {MAX_IMAGES} latents of {info.name} have", field="latents")
    z = _as_floats(given, "latents")
    if z.shape == shape:
        z = z[None]
    if z.shape[1:] != shape or not 1 <= len(z) <= MAX_IMAGES:
        wanted = f"{list(shape)} or [n, {', '.join(map(str, shape))}] with n up to {MAX_IMAGES}"
        raise InvalidField(f"latents: shape {list(z.shape)}; {info.name} takes {wanted}", field="latents")
    if info.codes and not ((z == np.rint(z)) & (z >= 0) & (z < info.codes)).all():
        raise InvalidField(f"latents: {info.name} takes whole numbers from 0 to {info.codes - 1}", field="latents")
    if request.n is not None and request.n != len(z):
        raise InvalidField(f"n: {request.n} contradicts the {len(z)} latents given", field="n")
    stories = [{"latents_sha256": digest(row)} for row in z]
    return _plan(request, info, z, [label or 0] * len(z), None, (None,) * len(z), stories)


def digest(latent: Latents) -> str:
    """The sha256 of one latent's numbers, as 32-bit floats, by which a story names it."""
    return hashlib.sha256(latent.tobytes()).hexdigest()


def _count(given: list[Any], limit: int) -> int:
    """How many numbers nested lists hold; not counted further once they are beyond the limit."""
    count, lists = 0, [given]
    while lists and count <= limit:
        entries = lists.pop()
        inner = [entry for entry in entries if isinstance(entry, list)]
        count += len(entries) - len(inner) or not entries  # an empty list counts too, or many of them would be free
        lists += inner
    return count


def _as_floats(given: list[Any], field: str) -> NDArray[np.float32]:
    """Nested JSON numbers as an array.

    Raises:
        InvalidField: other values than numbers, ragged nesting, or numbers that no network can be expected to bear.
    """
    boxed = np.asarray(given, object)
    if not {type(value) for value in boxed.reshape(-1)} <= {int, float}:  # true is no number, and a list means ragged
        raise InvalidField(f"{field}: must be numbers, nested to a regular shape", field=field)
    try:
        with np.errstate(over="ignore"):
            z = boxed.astype(np.float32)
    except OverflowError:  # an integer that no float holds
        z = np.full(boxed.shape, np.inf, np.float32)
    _check_size(z, field)
    return z


def _check_size(z: NDArray[np.floating[Any]], field: str) -> None:
    """Refuse latents that would overflow inside a network, which would be told as the service's own fault.

    Raises:
        InvalidField: a number is beyond the bound, or none at all.
    """
    if not (np.abs(z) <= MAX_LATENT).all():
        raise InvalidField(f"{field}: must be finite, and at most {MAX_LATENT:g} either way", field=field)


def _plan_interpolation(request: ImageRequest, info: ModelInfo, label: int | None) -> Plan:
    walk = request.interpolate
    assert walk is not None
    draw = latents.styled_from_seed if info.styles else latents.from_seed
    start, own_label = draw(walk.from_seed, info.latent_shape, info.num_classes)
    end, _ = draw(walk.to_seed, info.latent_shape, info.num_classes)
    z = (latents.interpolate_styled if info.styles else latents.interpolate)(start, end, walk.steps)
    extra = _adjust(request, info, z)
    labels = [own_label if label is None else label] * walk.steps
    ends = {"from_seed": walk.from_seed, "to_seed": walk.to_seed, "steps": walk.steps}
    stories = [{"interpolate": ends, "step": step, **extra} for step in range(walk.steps)]
    return _plan(request, info, z, labels, walk.from_seed, (None,) * walk.steps, stories)


def _plan_mix(request: ImageRequest, info: ModelInfo, label: int | None, parts: Sequence[MixPart]) -> Plan:
    """The mean of several latents by their weights; of the label of the first when none is given."""
    total, size = sum(part.weight for part in parts), sum(abs(part.weight) for part in parts)
    if abs(total) <= LEAST_SUM * size:
        said = f"the weights add up to {total:g}, too little of their sizes' {size:g} to make a mean"
        raise InvalidField(f"mix: {said}", field="mix")
    found = [_part(part, info, f"mix.{i}") for i, part in enumerate(parts)]
    z = sum(part.weight / total * row.astype(np.float64) for part, (row, _, _) in zip(parts, found, strict=True))
    _check_size(np.asarray(z), "mix")
    mixed = np.asarray(z, np.float32)[None]
    extra = _adjust(request, info, mixed)
    stories = [{"mix": [{**story, "weight": part.weight} for part, (_, _, story) in zip(parts, found, strict=True)]}]
    stories[0] |= extra
    return _plan(request, info, mixed, [found[0][1] if label is None else label], None, (None,), stories)


def _part(part: MixPart, info: ModelInfo, field: str) -> tuple[Latents, int, dict[str, Any]]:
    """One latent of a mix, the label drawn with it, and what the story calls it.

    Raises:
        InvalidField: it is given twice or not at all, or does not fit the model.
    """
    if (part.seed is None) == (part.latents is None):
        raise InvalidField(f"{field}: has to have either a seed or latents", field=field)
    if part.seed is not None:
        draw = latents.styled_from_seed if info.styles else latents.from_seed
        return *draw(part.seed, info.latent_shape, info.num_classes), {"seed": part.seed}
    assert part.latents is not None
    size = math.prod(info.latent_shape)
    row = _as_floats(part.latents, f"{field}.latents") if _count(part.latents, size) <= size else None
    if row is None or row.shape != info.latent_shape:
        raise InvalidField(f"{field}.latents: {info.name} takes {list(info.latent_shape)}", field=f"{field}.latents")
    return row, 0, {"latents_sha256": digest(row)}


def _plan(
    request: ImageRequest,
    info: ModelInfo,
    z: NDArray[np.float32],
    labels: list[int],
    seed: int | None,
    seeds: tuple[int | None, ...],
    stories: list[dict[str, Any]],
) -> Plan:
    shown: list[int | None] = list(labels) if info.num_classes else [None] * len(labels)
    steered = controls.steer(z, request.controls or {}, info)
    for story, own in zip(stories, shown, strict=True):
        story |= steered
        story |= {"label": own} if own is not None else {}
        story |= {"scale": request.scale} if request.scale > 1 else {}
    job = LatentJob(info.name, z, np.array(labels, np.int64))
    return Plan(info, job, seed, seeds, tuple(shown), tuple(stories), request.scale, _animation(request))
