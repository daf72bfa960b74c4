"""Request in, bytes out: look up the model, make latents, submit, await, encode.

The only place that will join two models. Knows the engine and the codecs; knows neither HTTP nor torch.
"""

import asyncio
import base64
import functools
import hashlib
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from app import codecs, latents
from app.codecs import ImageFormat, Provenance
from app.encoders import Encoders
from app.engine.engine import Engine
from app.engine.jobs import LatentJob, ModelInfo, Pictures
from app.engine.terms import Terms
from app.errors import InvalidField
from app.schemas import MAX_IMAGES, ImageAnswer, ImageItem, ImageRequest
from app.telemetry import Telemetry

# Up to so many pixels, about 0.1 ms, handing the encoding to a thread costs more than it saves.
INLINE_PIXELS: Mapping[ImageFormat, int] = {"png": 1 << 16, "webp": 1 << 10}

T = TypeVar("T")
Packing = Literal["image", "zip", "json"]


class Watch(Protocol):
    """Awaits futures on behalf of one client, and cancels them when it leaves."""

    async def __call__(self, future: asyncio.Future[T]) -> T:
        """The future's result."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request comes to: a job for the engine and the story of each picture."""

    info: ModelInfo
    job: LatentJob
    seed: int | None
    seeds: tuple[int | None, ...]
    labels: tuple[int | None, ...]
    parameters: tuple[dict[str, Any], ...]
    scale: int

    def provenance(self, index: int) -> Provenance:
        """Of one picture."""
        return Provenance(self.info.identity, self.parameters[index])

    def sheet_provenance(self) -> Provenance:
        """Of all pictures on one sheet."""
        if len(self.seeds) == 1:
            return self.provenance(0)
        first, *others = self.parameters  # what differs from picture to picture, save the seed, is not the sheet's
        shared = {k: v for k, v in first.items() if k == "seed" or all(other.get(k) == v for other in others)}
        return Provenance(self.info.identity, {**shared, "grid": len(self.seeds)})


@dataclass(frozen=True, slots=True)
class Generated:
    """Pictures with their story, before enlargement, on their way to a client.

    Attributes:
        plan: what was asked for.
        pictures: [n, H, W, C].
        image_format: to be encoded in.
        reserved: seconds of the encoders; 0 for what is encoded at once.
        deadline: by the loop's clock.
        watch: awaits on behalf of the client.
    """

    plan: Plan
    pictures: Pictures
    image_format: ImageFormat
    reserved: float
    deadline: float
    watch: Watch

    @property
    def pixels(self) -> int:
        """Of all files."""
        return self.pictures[..., 0].size * self.plan.scale**2


class Service:
    """Generation as the routes see it."""

    def __init__(self, engine: Engine, telemetry: Telemetry, max_pixels: int) -> None:
        self.engine = engine
        self._telemetry = telemetry
        self._max_pixels = max_pixels
        self._encoders = Encoders(telemetry)

    def close(self) -> None:
        """Let the encoder threads go."""
        self._encoders.close()

    def picture_model(self, name: str | None) -> ModelInfo:
        """The picture model of that name, or the first one.

        Raises:
            ModelNotFound: there is none; and what `Engine.model` raises.
        """
        return self.engine.model(name, "latent")

    async def generate(self, request: ImageRequest, image_format: ImageFormat, watch: Watch, terms: Terms) -> Generated:
        """Make the pictures of a request, to be encoded afterwards; `watch` gives them up when the client leaves.

        Raises:
            GenserveError: the request does not fit the model, or the engine refuses or fails it.
        """
        deadline = asyncio.get_running_loop().time() + terms.seconds
        plan = plan_images(request, self.picture_model(request.model))
        height, width, _ = plan.info.image_shape
        pixels = plan.job.rows * height * width * plan.scale**2
        if pixels > self._max_pixels:
            field = "scale" if plan.scale > 1 else "n"
            raise InvalidField(f"{field}: {pixels} pixels in all; the limit is {self._max_pixels}", field=field)
        inline = pixels <= INLINE_PIXELS[image_format]
        reserved = 0.0 if inline else self._encoders.reserve(pixels, image_format, terms)
        try:
            pictures = await watch(self.engine.submit(plan.job, terms))
        except BaseException:
            self._encoders.release(reserved)
            raise
        return Generated(plan, pictures, image_format, reserved, deadline, watch)

    async def encode(self, generated: Generated, packing: Packing) -> bytes:
        """Pictures to the body of an answer: one picture or sheet, a ZIP archive, or JSON. Call it once.

        Raises:
            InvalidField: the sheet is too large for the format.
            DeadlineExceeded: it was not done in time.
        """
        start = time.perf_counter()
        plan = generated.plan
        if packing == "image":
            rows, columns = codecs.grid_shape(len(generated.pictures))
        else:
            rows, columns = 1, 1
        call = {"image": _as_sheet, "zip": _as_archive, "json": _as_json}[packing]
        body = await self._run(call, generated, rows, columns)
        self._telemetry.pictures(plan.info.name).encode.observe(time.perf_counter() - start)
        return body

    async def encode_each(self, generated: Generated) -> list[bytes]:
        """Each picture as a file of its own. Call it once.

        Raises:
            InvalidField: a picture is too large for the format.
            DeadlineExceeded: it was not done in time.
        """
        return await self._run(_files, generated, 1, 1)

    async def _run(
        self, call: Callable[[Generated, ImageFormat], T], generated: Generated, rows: int, columns: int
    ) -> T:
        """Encode at once what is small, the rest in a thread; files of rows x columns pictures."""
        image_format = generated.image_format
        try:
            _check_sides(generated.plan, image_format, rows, columns)
            if not generated.reserved:
                return call(generated, image_format)
            encode = functools.partial(call, generated, image_format)
            return await self._encoders.run(encode, generated.pixels, image_format, generated.watch, generated.deadline)
        finally:
            self._encoders.release(generated.reserved)


def _check_sides(plan: Plan, image_format: ImageFormat, rows: int, columns: int) -> None:
    height, width, _ = plan.info.image_shape
    if image_format == "webp" and plan.scale * max(rows * height, columns * width) > codecs.MAX_WEBP_SIDE:
        raise InvalidField(f"format: WebP holds at most {codecs.MAX_WEBP_SIDE} pixels a side", field="format")


def _files(generated: Generated, image_format: ImageFormat) -> list[bytes]:
    plan = generated.plan
    pictures = codecs.enlarge(generated.pictures, plan.scale)
    return codecs.encode_all(pictures, image_format, [plan.provenance(i) for i in range(len(pictures))])


def _as_sheet(generated: Generated, image_format: ImageFormat) -> bytes:
    pictures = generated.pictures
    sheet = pictures if len(pictures) == 1 else codecs.grid(pictures)[None]
    (picture,) = codecs.enlarge(sheet, generated.plan.scale)
    return codecs.encode(picture, image_format, generated.plan.sheet_provenance())


def _as_archive(generated: Generated, image_format: ImageFormat) -> bytes:
    plan = generated.plan
    names = [f"{plan.info.name}-{i:02d}" + ("" if s is None else f"-seed-{s}") for i, s in enumerate(plan.seeds)]
    files = _files(generated, image_format)
    return codecs.archive((f"{name}.{image_format}", content) for name, content in zip(names, files, strict=True))


def _as_json(generated: Generated, image_format: ImageFormat) -> bytes:
    plan, media_type = generated.plan, codecs.MEDIA_TYPES[image_format]
    images = [
        ImageItem(seed=seed, label=label, media_type=media_type, base64=base64.b64encode(content).decode())
        for seed, label, content in zip(plan.seeds, plan.labels, _files(generated, image_format), strict=True)
    ]
    return ImageAnswer(model=plan.info.identity, seed=plan.seed, images=images).model_dump_json().encode()


def plan_images(request: ImageRequest, info: ModelInfo) -> Plan:
    """From a request to latents and labels.

    Raises:
        InvalidField: fields contradict each other or do not fit the model.
    """
    _check_combination(request)
    label = resolve_label(request.label, info)
    if request.latents is not None:
        return _plan_latents(request, info, label, request.latents)
    if request.interpolate is not None:
        return _plan_interpolation(request, info, label)
    return _plan_seeds(request, info, label)


def _check_combination(request: ImageRequest) -> None:
    for field in ("n", "seed", "truncation", "interpolate"):
        if request.latents is not None and getattr(request, field) is not None and field != "n":
            raise InvalidField(f"{field}: has no meaning beside latents", field=field)
    if request.interpolate is not None:
        for field in ("n", "seed"):
            if getattr(request, field) is not None:
                raise InvalidField(f"{field}: has no meaning beside interpolate", field=field)


def resolve_label(label: int | str | None, info: ModelInfo) -> int | None:
    """A label's index from its index or its name.

    Raises:
        InvalidField: the model has no such label, or no labels at all.
    """
    if label is None:
        return None
    if not info.num_classes:
        raise InvalidField(f"label: {info.name} is unconditional", field="label")
    if isinstance(label, str):
        if label not in info.labels:
            known = ", ".join(info.labels) or "(no names)"
            raise InvalidField(f"label: {label!r} is not one of {known}", field="label")
        return info.labels.index(label)
    if label >= info.num_classes:
        raise InvalidField(f"label: {label} is not below {info.num_classes}", field="label")
    return label


def _plan_seeds(request: ImageRequest, info: ModelInfo, label: int | None) -> Plan:
    n = request.n or 1
    seed = random.randrange(latents.MAX_SEED - MAX_IMAGES) if request.seed is None else request.seed  # noqa: S311
    if seed + n - 1 > latents.MAX_SEED:
        raise InvalidField(f"seed: seed + n - 1 must not exceed {latents.MAX_SEED}", field="seed")
    drawn = [latents.from_seed(seed + j, info.latent_shape, info.num_classes) for j in range(n)]
    z = drawn[0][0][None] if n == 1 else np.stack([latent for latent, _ in drawn])
    if request.truncation is not None:
        z *= np.float32(request.truncation)
    labels = [own if label is None else label for _, own in drawn]
    extra = {} if request.truncation is None else {"truncation": request.truncation}
    stories = [{"seed": seed + j, **extra} for j in range(n)]
    return _plan(request, info, z, labels, seed, tuple(range(seed, seed + n)), stories)


def _plan_latents(request: ImageRequest, info: ModelInfo, label: int | None, given: list[Any]) -> Plan:
    shape = info.latent_shape
    if _count(given, MAX_IMAGES * math.prod(shape)) > MAX_IMAGES * math.prod(shape):
        raise InvalidField(f"latents: more numbers than {MAX_IMAGES} latents of {info.name} have", field="latents")
    z = _as_floats(given)
    if z.shape == shape:
        z = z[None]
    if z.shape[1:] != shape or not 1 <= len(z) <= MAX_IMAGES:
        wanted = f"{list(shape)} or [n, {', '.join(map(str, shape))}] with n up to {MAX_IMAGES}"
        raise InvalidField(f"latents: shape {list(z.shape)}; {info.name} takes {wanted}", field="latents")
    if request.n is not None and request.n != len(z):
        raise InvalidField(f"n: {request.n} contradicts the {len(z)} latents given", field="n")
    stories = [{"latents_sha256": hashlib.sha256(row.tobytes()).hexdigest()} for row in z]
    return _plan(request, info, z, [label or 0] * len(z), None, (None,) * len(z), stories)


def _count(given: list[Any], limit: int) -> int:
    """How many numbers nested lists hold; not counted further once they are beyond the limit."""
    count, lists = 0, [given]
    while lists and count <= limit:
        entries = lists.pop()
        inner = [entry for entry in entries if isinstance(entry, list)]
        count += len(entries) - len(inner) or not entries  # an empty list counts too, or many of them would be free
        lists += inner
    return count


def _as_floats(given: list[Any]) -> NDArray[np.float32]:
    """Nested JSON numbers as an array.

    Raises:
        InvalidField: other values than numbers, ragged nesting, or numbers beyond 32-bit floats.
    """
    boxed = np.asarray(given, object)
    if not {type(value) for value in boxed.reshape(-1)} <= {int, float}:  # true is no number, and a list means ragged
        raise InvalidField("latents: must be numbers, nested to a regular shape", field="latents")
    try:
        with np.errstate(over="ignore"):
            z = boxed.astype(np.float32)
    except OverflowError:  # an integer that no float holds
        z = np.full(boxed.shape, np.inf, np.float32)
    if not np.isfinite(z).all():
        raise InvalidField("latents: must be finite in 32-bit floats", field="latents")
    return z


def _plan_interpolation(request: ImageRequest, info: ModelInfo, label: int | None) -> Plan:
    walk = request.interpolate
    assert walk is not None
    start, own_label = latents.from_seed(walk.from_seed, info.latent_shape, info.num_classes)
    end, _ = latents.from_seed(walk.to_seed, info.latent_shape, info.num_classes)
    z = latents.interpolate(start, end, walk.steps)
    if request.truncation is not None:
        z *= np.float32(request.truncation)
    labels = [own_label if label is None else label] * walk.steps
    extra = {} if request.truncation is None else {"truncation": request.truncation}
    ends = {"from_seed": walk.from_seed, "to_seed": walk.to_seed, "steps": walk.steps}
    stories = [{"interpolate": ends, "step": step, **extra} for step in range(walk.steps)]
    return _plan(request, info, z, labels, walk.from_seed, (None,) * walk.steps, stories)


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
    for story, own in zip(stories, shown, strict=True):
        story |= {"label": own} if own is not None else {}
        story |= {"scale": request.scale} if request.scale > 1 else {}
    job = LatentJob(info.name, z, np.array(labels, np.int64))
    return Plan(info, job, seed, seeds, tuple(shown), tuple(stories), request.scale)
