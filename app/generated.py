"""Pictures that were made, on their way to a client: as files, a sheet, an animation, an archive or JSON.

Knows plans and codecs; knows neither the engine nor threads.
"""

import base64
from dataclasses import dataclass
from typing import Literal

from app import animation, codecs
from app.codecs import ImageFormat
from app.encoders import Watch, Work
from app.engine.jobs import Pictures
from app.errors import InvalidField
from app.plan import Plan
from app.schemas.images import ImageAnswer, ImageItem

Packing = Literal["image", "zip", "json"]


@dataclass(frozen=True, slots=True)
class Generated:
    """Pictures with their story, before enlargement, on their way to a client.

    Attributes:
        plan: what was asked for.
        pictures: [n, H, W, C].
        image_format: to be encoded in, unless they are frames of an animation.
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
        """Of all files, frame by frame."""
        return self.pictures[0, ..., 0].size * self.plan.shown * self.plan.scale**2

    @property
    def work(self) -> Work:
        """Which kind the encoding is."""
        return work_of(self.plan, self.image_format)

    @property
    def media_type(self) -> str:
        """Of each file."""
        moving = self.plan.animation
        return codecs.MEDIA_TYPES[self.image_format] if moving is None else animation.MEDIA_TYPES[moving.image_format]

    def check_sides(self, rows: int, columns: int) -> None:
        """Of a file of rows x columns pictures.

        Raises:
            InvalidField: the format holds no such file.
        """
        height, width, _ = self.plan.info.image_shape
        side = self.plan.scale * max(rows * height, columns * width)
        if self.work in ("webp", "webp-animation") and side > codecs.MAX_WEBP_SIDE:
            raise InvalidField(f"format: WebP holds at most {codecs.MAX_WEBP_SIDE} pixels a side", field="format")

    def files(self) -> list[bytes]:
        """Each picture as a file, or the one file of an animation."""
        plan = self.plan
        if plan.animation is not None:
            story = plan.animation_provenance(plan.animation)
            return [animation.animate(self.pictures, plan.animation, plan.scale, story)]
        pictures = codecs.enlarge(self.pictures, plan.scale)
        return codecs.encode_all(pictures, self.image_format, [plan.provenance(i) for i in range(len(pictures))])

    def packed(self, packing: Packing) -> bytes:
        """All of them as one body: a picture, sheet or animation, a ZIP archive, or JSON."""
        if packing == "zip":
            return self._archive()
        if packing == "json":
            return self._json()
        if self.plan.animation is None:
            return self._sheet()
        (content,) = self.files()
        return content

    def _sheet(self) -> bytes:
        pictures = self.pictures
        sheet = pictures if len(pictures) == 1 else codecs.grid(pictures)[None]
        (picture,) = codecs.enlarge(sheet, self.plan.scale)
        return codecs.encode(picture, self.image_format, self.plan.sheet_provenance())

    def _archive(self) -> bytes:
        plan = self.plan
        seeds = [seed for seed, _ in plan.told]
        names = [f"{plan.info.name}-{i:02d}" + ("" if s is None else f"-seed-{s}") for i, s in enumerate(seeds)]
        named = zip(names, self.files(), strict=True)
        return codecs.archive((f"{name}.{self.image_format}", content) for name, content in named)

    def _json(self) -> bytes:
        plan, media_type = self.plan, self.media_type
        images = [
            ImageItem(seed=seed, label=label, media_type=media_type, base64=base64.b64encode(content).decode())
            for (seed, label), content in zip(plan.told, self.files(), strict=True)
        ]
        return ImageAnswer(model=plan.info.identity, seed=plan.seed, images=images).model_dump_json().encode()


def work_of(plan: Plan, image_format: ImageFormat) -> Work:
    """Which kind the encoding of a plan's pictures is."""
    return image_format if plan.animation is None else plan.animation.image_format
