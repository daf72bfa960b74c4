"""What a set consists of: which picture comes from which seed, and in which requests they are asked for.

Knows neither HTTP nor the disk. The same plan gives the same bytes, however often its making is cut short.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.bench.errors import BadFlag, Unusable
from app.dataset.options import MAX_SEED, Options

PART = 64  # pictures a request: the most that the service takes
DIGEST_SHOWN = 12  # digits of it in an answer's X-Genserve-Model
MAX_CLASSES = 100_000
IDX_CLASSES, IDX_CHANNELS = 256, 1  # labels are bytes, pictures are grey
EVERYTHING = "all"  # the one class of a model without classes
UNFIT = re.compile(r"[^A-Za-z0-9._ -]")  # for the name of a folder; labels may hold slashes
MAX_FOLDER_NAME = 80


@dataclass(frozen=True)
class Part:
    """The pictures of one request: `count` of one class, from `seed` on."""

    category: int
    seed: int
    count: int

    @property
    def seeds(self) -> range:
        """Of its pictures."""
        return range(self.seed, self.seed + self.count)


@dataclass(frozen=True)
class Plan:
    """A set.

    Attributes:
        model: its name.
        digest: of the model, all digits.
        runtime: what it runs on, as the service's answers say.
        labels: name of each class; `all` for a model without classes.
        conditional: whether requests name a class.
        shape: height, width and channels of a picture.
        per_class: pictures of each class.
        seed: of the first picture; class c has the `per_class` seeds from seed + c * per_class on, so that no two
            pictures share a latent.
        truncation: that is asked for; None for none.
        layout: of the folder, `png` or `idx`.
    """

    model: str
    digest: str
    runtime: str
    labels: tuple[str, ...]
    conditional: bool
    shape: tuple[int, int, int]
    per_class: int
    seed: int
    truncation: float | None
    layout: str

    @property
    def identity(self) -> str:
        """`name@digest`, as answers give it."""
        return f"{self.model}@{self.digest[:DIGEST_SHOWN]}"

    @property
    def total(self) -> int:
        """Pictures of all classes."""
        return self.per_class * len(self.labels)

    def seeds(self, category: int) -> range:
        """Of one class's pictures."""
        first = self.seed + category * self.per_class
        return range(first, first + self.per_class)

    def parts(self, category: int) -> Iterator[Part]:
        """The requests for one class, in order."""
        seeds = self.seeds(category)
        for start in range(0, len(seeds), PART):
            some = seeds[start : start + PART]
            yield Part(category, some[0], len(some))

    def rounds(self) -> Iterator[tuple[Part, ...]]:
        """All requests, one of each class a round: a class fills as fast as the others."""
        return zip(*map(self.parts, range(len(self.labels))), strict=True)

    def parameters(self, category: int) -> dict[str, Any]:
        """What a class's requests ask for beside seed and number."""
        label = {"label": category} if self.conditional else {}
        return {**label, **({} if self.truncation is None else {"truncation": self.truncation})}

    def body(self, part: Part) -> bytes:
        """Of the request for a part."""
        return json.dumps(
            {"model": self.model, "seed": part.seed, "n": part.count, **self.parameters(part.category)}
        ).encode()

    def folder(self, category: int) -> str:
        """A class's folder: its number leads, so that loaders which number classes by name agree with the model."""
        name = UNFIT.sub("_", self.labels[category])[:MAX_FOLDER_NAME].strip()
        return f"{category:0{len(str(len(self.labels) - 1))}d}-{name}" if self.conditional else name

    def file(self, seed: int) -> str:
        """A picture's file in its class's folder; names sort as seeds do."""
        return f"{seed:0{len(str(self.seed + self.total - 1))}d}.png"


def make_plan(options: Options, digest: str, runtime: str, card: Mapping[str, Any]) -> Plan:
    """From what is wanted and what the service says of the model.

    Args:
        options: what is wanted.
        digest: of the model.
        runtime: of the model.
        card: the `genserve` part of `GET /v1/models/{name}`.

    Raises:
        Unusable: the card is not a picture model's.
        BadFlag: the seeds don't suffice, or the layout can't hold such pictures.
    """
    try:
        classes, labels = int(card["num_classes"]), [str(label) for label in card["labels"]]
        height, width, channels = (int(card["image"][side]) for side in ("height", "width", "channels"))
    except (KeyError, TypeError, ValueError):
        raise Unusable(f"{options.model}: the service does not say what its pictures are") from None
    if not 0 <= classes <= MAX_CLASSES:
        raise Unusable(f"{options.model}: {classes} classes; a set has at most {MAX_CLASSES:,}")
    names = labels if len(labels) == classes else [str(i) for i in range(classes)]
    plan = Plan(
        model=options.model,
        digest=digest,
        runtime=runtime,
        labels=tuple(names) or (EVERYTHING,),
        conditional=classes > 0,
        shape=(height, width, channels),
        per_class=options.per_class,
        seed=options.seed,
        truncation=options.truncation,
        layout=options.layout,
    )
    _check(plan)
    return plan


def _check(plan: Plan) -> None:
    if plan.seed + plan.total - 1 > MAX_SEED:
        raise BadFlag(f"--seed {plan.seed}: {plan.total:,} pictures need seeds above {MAX_SEED}, the last")
    if plan.layout == "idx" and plan.shape[2] != IDX_CHANNELS:
        raise BadFlag(f"--format idx: holds grey pictures; {plan.model}'s have {plan.shape[2]} channels, take png")
    if plan.layout == "idx" and len(plan.labels) > IDX_CLASSES:
        raise BadFlag(f"--format idx: holds {IDX_CLASSES} classes; {plan.model} has {len(plan.labels)}, take png")
