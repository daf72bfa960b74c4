"""The plain values that the HTTP side and the device worker exchange: no torch, no asyncio, no HTTP.

A value here is built of ints, strings and numpy arrays, so that it means the same in a thread and across a socket.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Latents: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[np.int64]
Pictures: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class LatentJob:
    """Latents to be decoded by one model; row i becomes picture i.

    Attributes:
        model: name of a served latent model.
        latents: [n, *latent_shape], finite.
        labels: [n], each in [0, num_classes); zeros for an unconditional model.
    """

    model: str
    latents: Latents
    labels: Labels

    @property
    def rows(self) -> int:
        """How many pictures the job asks for."""
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a device worker needs to know to start; sent to it as its first frame.

    Attributes:
        weights: folder of weights folders.
        models: names to load; empty for all.
        device: auto, cpu, cuda or cuda:i.
        threads: compute threads; 0 leaves torch's default.
        max_batch: largest batch of a latent model.
        memory_limit: bytes for all models; 0 for what the device has.
        models_module: the operator's module of own architectures, if any.
        skip_broken: report a broken weights folder instead of refusing to start.
    """

    weights: str
    models: tuple[str, ...] = ()
    device: str = "auto"
    threads: int = 0
    max_batch: int = 64
    memory_limit: int = 0
    models_module: str | None = None
    skip_broken: bool = False


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the HTTP side knows of a model, as measured by the worker that loaded it.

    Attributes:
        name: the weights folder's name.
        kind: "latent" or "sequence".
        architecture: key in the model dicts.
        digest: sha256 over architecture, its arguments and its weights.
        parameters: number of parameters.
        memory_bytes: parameters and buffers on the device.
        created: modification time of the weights, Unix seconds.
        latent_shape: shape of one latent.
        num_classes: 0 for an unconditional model.
        labels: class names; empty when they have none.
        image_shape: (height, width, channels).
        buckets: batch sizes that give every row the same bytes, ascending.
        seconds: of compute for a batch of each bucket, measured at warm-up.
        card: the model card.
        error: why the model could not be loaded; None when it is served.
    """

    name: str
    kind: Literal["latent", "sequence"] = "latent"
    architecture: str = ""
    digest: str = ""
    parameters: int = 0
    memory_bytes: int = 0
    created: int = 0
    latent_shape: tuple[int, ...] = ()
    num_classes: int = 0
    labels: tuple[str, ...] = ()
    image_shape: tuple[int, int, int] = (0, 0, 0)
    buckets: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()
    card: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def identity(self) -> str:
        """`name@digest`, short enough for a header."""
        return f"{self.name}@{self.digest[:12]}"


@dataclass(frozen=True, slots=True)
class Runtime:
    """What else decides an output besides the model: the parts of the seed contract that the operator chose."""

    device: str
    dtype: str
    torch: str
    threads: int

    def __str__(self) -> str:
        return f"{self.device}; {self.dtype}; torch {self.torch}; threads={self.threads}"


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of one job, done or failed.

    Attributes:
        job: the job's number.
        offset: first row within the job.
        count: number of rows.
        error: why these rows failed; None when their pictures follow.
    """

    job: int
    offset: int
    count: int
    error: str | None = None
