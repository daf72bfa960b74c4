"""Request in, bytes out: look up the model, make latents or read a picture, submit, await, encode.

The only place that will join two models. Knows the engine and the codecs; knows neither HTTP nor torch.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from app import codecs
from app.captions import Captions
from app.codecs import ImageFormat
from app.encoders import Encoders, Watch, Work
from app.engine.engine import Engine
from app.engine.jobs import LatentJob, Latents, ModelInfo, Pictures, Task, encoder_of
from app.engine.terms import Terms
from app.errors import InvalidField, ModelNotFound
from app.generated import Generated, Packing, work_of
from app.inpainting import Inpainter, Wanted, drawn_seed, plan_filled
from app.plan import Plan, plan_images, require_label, resolve_label
from app.reader import Reader
from app.schemas.encode import EncodeQuery, ReconstructQuery
from app.schemas.images import ImageRequest
from app.schemas.inpaint import InpaintQuery
from app.settings import MAX_UPLOAD_PIXELS
from app.telemetry import Telemetry
from app.upload import Reading

# Up to so many pixels, about 0.1 ms, handing the encoding to a thread costs more than it saves.
INLINE_PIXELS: Mapping[Work, int] = {"png": 1 << 16, "webp": 1 << 10, "apng": 1 << 13, "webp-animation": 0}

T = TypeVar("T")


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
        self._encoders = Encoders(telemetry)
        self._reader = Reader(self._encoders, telemetry, max_upload_pixels)
        self._inpainter = Inpainter(engine)
        self.captions = Captions(engine)

    def close(self) -> None:
        """Let the encoder threads go."""
        self._encoders.close()

    def picture_model(self, name: str | None, prompt: str | None = None) -> ModelInfo:
        """The picture model of that name; or the first one, with a prompt the first that draws captions.

        Raises:
            ModelNotFound: there is none; and what `Engine.model` raises.
        """
        tasks: tuple[Task, ...] = ("latents", "codes")
        return self.engine.model(name, *((*tasks, "captions") if prompt is None else ("captions", *tasks)))

    def encoding_model(self, name: str | None) -> ModelInfo:
        """The picture model of that name, if it encodes, or the first one that does.

        Raises:
            ModelNotFound: there is none; and what `Engine.model` raises.
        """
        return self._model_that("encodes", lambda info: info.encodes, name)

    def inpainting_model(self, name: str | None) -> ModelInfo:
        """The picture model of that name, if it inpaints, or the first one that does.

        Raises:
            ModelNotFound: there is none; and what `Engine.model` raises.
        """
        return self._model_that("inpaints", lambda info: info.inpaints, name)

    def _model_that(self, does: str, able: Callable[[ModelInfo], bool], name: str | None) -> ModelInfo:
        self.engine.check_open()
        known = {info.name: info for info in self.engine.models.values() if info.error is None and able(info)}
        if name is None and known:
            return next(iter(known.values()))
        if name in known:
            return known[name]
        asked = "no model" if name is None else f"no model {name!r}"
        raise ModelNotFound(f"{asked} that {does} is served (served: {', '.join(known) or 'none'})", field="model")

    async def to_latents(self, asked: EncodeQuery, content: bytes, watch: Watch, terms: Terms) -> Encoded:
        """The latents of an uploaded picture; `watch` gives it up when the client leaves.

        Raises:
            GenserveError: the picture or the request does not fit, or the engine refuses or fails it.
        """
        deadline = asyncio.get_running_loop().time() + terms.seconds
        info = self.encoding_model(asked.model)
        label = require_label(asked.label, info)
        reading = await self._reader.read(content, info, watch, terms, deadline)
        job = LatentJob(encoder_of(info.name), reading.picture[None], np.array([label or 0], np.int64))
        (z,) = await watch(self.engine.submit(job, terms.left(deadline)))
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
        with self._reserved(self._pixels(info, 1, asked.scale), image_format, terms) as reserved, self.engine.held():
            encoded = await self.to_latents(asked, content, watch, terms)
            again = ImageRequest(
                model=info.name,
                latents=encoded.latents.tolist(),
                label=encoded.label if shown is None else shown,
                scale=asked.scale,
                format=asked.format,
            )
            plan = plan_images(again, info)
            pictures = await watch(self.engine.submit(plan.job, terms.onward(deadline)))
        return Generated(plan, pictures, image_format, reserved, deadline, watch)

    async def inpaint(
        self,
        asked: InpaintQuery,
        image: bytes,
        mask: bytes | None,
        image_format: ImageFormat,
        watch: Watch,
        terms: Terms,
    ) -> Generated:
        """An uploaded picture with its hole filled, to be encoded afterwards.

        The hole is what is white in the mask, or without one what is transparent in the picture.

        Raises:
            GenserveError: a file or the request does not fit, or the engine refuses or fails it.
        """
        deadline = asyncio.get_running_loop().time() + terms.seconds
        info = self.inpainting_model(asked.model)
        wanted = Wanted(info, resolve_label(asked.label, info), drawn_seed(asked.seed), asked.steps)
        pixels = self._pixels(info, 1, asked.scale)  # refused before anything is computed
        hole = await self._reader.hole(image, mask, info, watch, terms, deadline)
        with self._reserved(pixels, image_format, terms) as reserved, self.engine.held():
            found = await watch(asyncio.ensure_future(self._inpainter.search(wanted, hole, terms, deadline)))
        plan = plan_filled(wanted, found, hole, asked.scale)
        return Generated(plan, hole.filled(found.pictures[0])[None], image_format, reserved, deadline, watch)

    def _pixels(self, info: ModelInfo, rows: int, scale: int, count_field: str = "n") -> int:
        """Of an answer with so many pictures, as that field says.

        Raises:
            InvalidField: they are too many.
        """
        height, width, _ = info.image_shape
        pixels = rows * height * width * scale**2
        if pixels > self._max_pixels:
            field = "scale" if scale > 1 else count_field
            raise InvalidField(f"{field}: {pixels} pixels in all; the limit is {self._max_pixels}", field=field)
        return pixels

    async def generate(self, request: ImageRequest, image_format: ImageFormat, watch: Watch, terms: Terms) -> Generated:
        """Make the pictures of a request, to be encoded afterwards; `watch` gives them up when the client leaves.

        Raises:
            GenserveError: the request does not fit the model, or the engine refuses or fails it.
        """
        deadline = asyncio.get_running_loop().time() + terms.seconds
        info = self.picture_model(request.model, request.prompt)
        if info.task == "captions":
            return await self._draw(request, info, image_format, watch, terms)
        plan = plan_images(request, info)
        pixels = self._pixels(plan.info, plan.shown, plan.scale, "n" if request.interpolate is None else "interpolate")
        with self._reserved(pixels, work_of(plan, image_format), terms) as reserved:
            pictures = await self._compute(plan, watch, terms, deadline)
        return Generated(plan, pictures, image_format, reserved, deadline, watch)

    async def _compute(self, plan: Plan, watch: Watch, terms: Terms, deadline: float) -> Pictures:
        """The pictures of a plan; its latents are sampled first where that was asked for."""
        if plan.sampling is None:
            return await watch(self.engine.submit(plan.job, terms))
        with self.engine.held():
            z = await watch(self.engine.submit(plan.sampling, terms))
            return await watch(self.engine.submit(replace(plan.job, inputs=z), terms.onward(deadline)))

    async def _draw(
        self, request: ImageRequest, info: ModelInfo, image_format: ImageFormat, watch: Watch, terms: Terms
    ) -> Generated:
        """The same for a caption: one model writes codes, another makes pictures of them, under one deadline."""
        deadline = asyncio.get_running_loop().time() + terms.seconds
        draft = self.captions.draft(request, info)
        pixels = self._pixels(info, draft.n, draft.scale, "n")
        with self._reserved(pixels, image_format, terms) as reserved, self.engine.held():
            codes = await watch(asyncio.ensure_future(self.captions.codes(draft, terms, deadline)))
            plan = draft.plan(codes)
            pictures = await watch(self.engine.submit(plan.job, terms.onward(deadline)))
        return Generated(plan, pictures, image_format, reserved, deadline, watch)

    @contextlib.contextmanager
    def _reserved(self, pixels: int, work: Work, terms: Terms) -> Iterator[float]:
        """Seconds of the encoders for so many pixels, given back on failure; 0 for what is encoded at once.

        Raises:
            Overloaded: what waits for them already would take too much of the request's time.
        """
        reserved = 0.0 if pixels <= INLINE_PIXELS[work] else self._encoders.reserve(pixels, work, terms)
        try:
            yield reserved
        except BaseException:
            self._encoders.release(reserved)
            raise

    async def encode(self, generated: Generated, packing: Packing) -> bytes:
        """Pictures to the body of an answer: a picture, sheet or animation, a ZIP archive, or JSON. Call it once.

        Raises:
            InvalidField: the sheet is too large for the format.
            DeadlineExceeded: it was not done in time.
        """
        start = time.perf_counter()
        plan = generated.plan
        if packing == "image" and plan.animation is None:
            rows, columns = codecs.grid_shape(len(generated.pictures))
        else:
            rows, columns = 1, 1
        body = await self._run(functools.partial(generated.packed, packing), generated, rows, columns)
        self._telemetry.pictures(plan.info.name).encode.observe(time.perf_counter() - start)
        return body

    async def encode_each(self, generated: Generated) -> list[bytes]:
        """Each picture as a file of its own. Call it once.

        Raises:
            InvalidField: a picture is too large for the format.
            DeadlineExceeded: it was not done in time.
        """
        return await self._run(generated.files, generated, 1, 1)

    async def _run(self, call: Callable[[], T], generated: Generated, rows: int, columns: int) -> T:
        """Encode at once what is small, the rest in a thread; files of rows x columns pictures."""
        try:
            generated.check_sides(rows, columns)
            if not generated.reserved:
                return call()
            work, pixels = generated.work, generated.pixels
            return await self._encoders.run(call, pixels, work, generated.watch, generated.deadline)
        finally:
            self._encoders.release(generated.reserved)
