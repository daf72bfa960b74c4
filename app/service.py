"""Request in, bytes out: look up the model, make latents or read a picture, submit, await, encode.

The only place that will join two models. Knows the engine and the codecs; knows neither HTTP nor torch.
"""

import asyncio
import base64
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

import numpy as np

from app import codecs, upload
from app.codecs import ImageFormat
from app.encoders import Encoders
from app.engine.engine import Engine
from app.engine.jobs import LatentJob, Latents, ModelInfo, Pictures, encoder_of
from app.engine.terms import Terms
from app.errors import DeadlineExceeded, InvalidField, ModelNotFound, PictureTooLarge
from app.plan import Plan, plan_images, require_label, resolve_label
from app.schemas import EncodeQuery, ImageAnswer, ImageItem, ImageRequest, ReconstructQuery
from app.settings import MAX_UPLOAD_PIXELS
from app.telemetry import Telemetry
from app.upload import Header, Reading

# Up to so many pixels, about 0.1 ms, handing the encoding to a thread costs more than it saves.
INLINE_PIXELS: Mapping[ImageFormat, int] = {"png": 1 << 16, "webp": 1 << 10}
INLINE_UPLOAD = 1 << 14  # likewise, pixels and bytes of a file to read

T = TypeVar("T")
Packing = Literal["image", "zip", "json"]


class Watch(Protocol):
    """Awaits futures on behalf of one client, and cancels them when it leaves."""

    async def __call__(self, future: asyncio.Future[T]) -> T:
        """The future's result."""
        ...


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


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a model makes of somebody's picture.

    Attributes:
        info: of the model.
        label: of the picture; None for an unconditional model.
        latents: in the model's latent_shape.
        reading: the picture as the model saw it, and what was done to it.
    """

    info: ModelInfo
    label: int | None
    latents: Latents
    reading: Reading


class Service:
    """Generation as the routes see it."""

    def __init__(
        self, engine: Engine, telemetry: Telemetry, max_pixels: int, max_upload_pixels: int = MAX_UPLOAD_PIXELS
    ) -> None:
        self.engine = engine
        self._telemetry = telemetry
        self._max_pixels = max_pixels
        self._max_upload_pixels = max_upload_pixels
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

    def encoding_model(self, name: str | None) -> ModelInfo:
        """The picture model of that name, if it encodes, or the first one that does.

        Raises:
            ModelNotFound: there is none; and what `Engine.model` raises.
        """
        self.engine.check_open()
        known = {info.name: info for info in self.engine.models.values() if info.error is None and info.encodes}
        if name is None and known:
            return next(iter(known.values()))
        if name in known:
            return known[name]
        asked = "no model" if name is None else f"no model {name!r}"
        raise ModelNotFound(f"{asked} that encodes is served (served: {', '.join(known) or 'none'})", field="model")

    async def to_latents(self, asked: EncodeQuery, content: bytes, watch: Watch, terms: Terms) -> Encoded:
        """The latents of an uploaded picture; `watch` gives it up when the client leaves.

        Raises:
            GenserveError: the picture or the request does not fit, or the engine refuses or fails it.
        """
        deadline = asyncio.get_running_loop().time() + terms.seconds
        info = self.encoding_model(asked.model)
        label = require_label(asked.label, info)
        header = upload.header_of(content)
        if header.pixels > self._max_upload_pixels:
            said = f"{header.width} x {header.height} pixels; the limit is {self._max_upload_pixels} in all"
            raise PictureTooLarge(said)
        reading = await self._read(content, header, info, watch, terms, deadline)
        job = LatentJob(encoder_of(info.name), reading.picture[None], np.array([label or 0], np.int64))
        (z,) = await watch(self.engine.submit(job, _left(terms, deadline)))
        return Encoded(info, label, z, reading)

    async def reconstruct(
        self, asked: ReconstructQuery, content: bytes, image_format: ImageFormat, watch: Watch, terms: Terms
    ) -> Generated:
        """What a model makes of its own latents of an uploaded picture, to be encoded afterwards.

        Raises:
            GenserveError: as for `to_latents` and `generate`.
        """
        deadline = asyncio.get_running_loop().time() + terms.seconds
        info = self.encoding_model(asked.model)
        shown = resolve_label(asked.target_label, info, "target_label")
        self._pixels(info, 1, asked.scale)  # refused before anything is computed
        encoded = await self.to_latents(asked, content, watch, terms)
        again = ImageRequest(
            model=info.name,
            latents=encoded.latents.tolist(),
            label=encoded.label if shown is None else shown,
            scale=asked.scale,
            format=asked.format,
        )
        return await self.generate(again, image_format, watch, _left(terms, deadline))

    def _pixels(self, info: ModelInfo, rows: int, scale: int) -> int:
        """Of an answer with so many pictures.

        Raises:
            InvalidField: they are too many.
        """
        height, width, _ = info.image_shape
        pixels = rows * height * width * scale**2
        if pixels > self._max_pixels:
            field = "scale" if scale > 1 else "n"
            raise InvalidField(f"{field}: {pixels} pixels in all; the limit is {self._max_pixels}", field=field)
        return pixels

    async def _read(
        self, content: bytes, header: Header, info: ModelInfo, watch: Watch, terms: Terms, deadline: float
    ) -> Reading:
        """Decode what is small at once, the rest in a thread."""
        start, size = time.perf_counter(), max(header.pixels, len(content))
        read = functools.partial(upload.read, content, header, info.image_shape)
        if size <= INLINE_UPLOAD:
            reading = read()
        else:
            reserved = self._encoders.reserve(size, "upload", terms)
            try:
                reading = await self._encoders.run(read, size, "upload", watch, deadline)
            finally:
                self._encoders.release(reserved)
        self._telemetry.read.labels(info.name).observe(time.perf_counter() - start)
        return reading

    async def generate(self, request: ImageRequest, image_format: ImageFormat, watch: Watch, terms: Terms) -> Generated:
        """Make the pictures of a request, to be encoded afterwards; `watch` gives them up when the client leaves.

        Raises:
            GenserveError: the request does not fit the model, or the engine refuses or fails it.
        """
        deadline = asyncio.get_running_loop().time() + terms.seconds
        plan = plan_images(request, self.picture_model(request.model))
        pixels = self._pixels(plan.info, plan.job.rows, plan.scale)
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


def _left(terms: Terms, deadline: float) -> Terms:
    """The same terms for what is left of a request's time, up to a deadline by the loop's clock.

    Raises:
        DeadlineExceeded: nothing is left.
    """
    seconds = deadline - asyncio.get_running_loop().time()
    if seconds <= 0:
        raise DeadlineExceeded(f"the answer was not there in {terms.seconds:g} s")
    return replace(terms, seconds=seconds)


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
