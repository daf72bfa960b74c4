"""Runs one function of a network on the device, in batches of a few exact sizes: numpy in, numpy out.

Knows tensors and the device; holds no policy: which rows make a batch is the batcher's business.
"""

import copy
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from app.engine.jobs import Labels, Latents, Pictures, Rows
from app.engine.link import MAX_BODY
from app.worker import packing
from app.worker.device import tell_apart
from app.worker.flops import FlopCounter
from app.worker.threads import compute_with, on_threads
from models.protocols import CodeModel, LatentModel

PROBE_ROWS = 16  # rows that every bucket is checked on; kernels differ by batch size, so few rows tell
IMAGE_CHANNELS = (1, 3, 4)
SHARED_FLOPS = 4e9  # a row that keeps one core busy for tens of milliseconds
BATCH_FLOPS = 2e9  # of a batch on a CPU: a larger one costs no less a row, and holds up what came after it
FEWEST_ROWS = 4  # that a CPU is given at once, however large the network
TIMINGS = 3  # of a batch that has run before


class ModelFault(Exception):
    """The network does not do what its protocol promises."""


class ExactRunner:
    """What decoding and encoding share: batches padded to a bucket, in which a row has the bits that it has alone.

    `buckets` holds those sizes at which every row comes out with the same bits as at the largest, wherever it lies and
    whoever its batch-mates are: the seed contract rests on it. A subclass sets `_model` to a network with `decode`,
    says what goes in and comes out, and warms up.

    Attributes:
        threads: that compute one batch together; one for small networks, whose batches run beside each other.
        buckets: exact batch sizes, ascending.
        seconds: of compute for a batch of each bucket, measured at warm-up.
    """

    _model: LatentModel
    threads = 1
    buckets: tuple[int, ...]
    seconds: tuple[float, ...]

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    def _as_input(self, rows: Rows) -> Tensor:
        """Rows as the network takes them, on the device."""
        raise NotImplementedError

    def _as_output(self, out: Tensor) -> tuple[Rows, NDArray[np.bool_]]:
        """What is made of the network's output, and which rows of it are finite."""
        raise NotImplementedError

    def compute(self, rows: Rows, labels: Labels) -> tuple[Rows, NDArray[np.bool_]]:
        """Compute rows [n, ...] with labels [n], n <= largest bucket: what they come to, [n, ...], and finite [n].

        Raises:
            MemoryError: there was not enough.
            DeviceLost: no call to the device will succeed any more.
            Exception: whatever the network raises.
        """
        return on_threads(self.threads, lambda: self._compute(rows, labels))

    def _compute(self, rows: Rows, labels: Labels) -> tuple[Rows, NDArray[np.bool_]]:
        try:
            with torch.inference_mode():
                size = self.bucket_for(len(labels))
                return self._as_output(self._forward(_padded(rows, size), _padded(labels, size))[: len(labels)])
        except Exception as error:
            tell_apart(error, self._device)
            raise

    def bucket_for(self, rows: int) -> int:
        """The smallest bucket that holds so many rows."""
        return next(size for size in self.buckets if size >= rows)

    def _sizes(self, flops: int, most: int) -> list[int]:
        """Batches to try, ascending, none of more than `most` rows. Told by size, as threads are: they decide bits."""
        if self._device.type == "cpu":
            rows = max(FEWEST_ROWS, int(BATCH_FLOPS) // max(1, flops))
            most = min(most, 1 << (rows.bit_length() - 1))
        return powers_of_two(most)

    def _warm_up(self, rows: Rows, labels: Labels, sizes: Sequence[int]) -> None:
        """Run buckets of these sizes, ascending, keep the exact ones and measure them."""
        rows, labels = (part[: max(PROBE_ROWS, sizes[-1])] for part in (rows, labels))
        self.buckets = self._exact_buckets(sizes, rows, labels)
        self.seconds = tuple(self._measure(rows[:size], labels[:size]) for size in self.buckets)

    def _forward(self, rows: Rows, labels: Labels) -> Tensor:
        y = torch.from_numpy(labels).to(self._device, non_blocking=True)
        return self._model.decode(self._as_input(rows), y)

    def _exact_buckets(self, sizes: Sequence[int], rows: Rows, labels: Labels) -> tuple[int, ...]:
        """Sizes from the largest down that agree with it bit by bit; a batch of one agrees at least with itself."""
        with torch.inference_mode():
            reference = self._in_batches_of(sizes[-1], rows, labels)
            exact: list[int] = []
            for size in reversed(sizes):
                some = min(len(labels), max(size, PROBE_ROWS))
                if not self._agrees(size, rows[:some], labels[:some], reference[:some]):
                    break
                exact.insert(0, size)
        return tuple(exact) or (1,)

    def _agrees(self, size: int, rows: Rows, labels: Labels, reference: Tensor) -> bool:
        """Whether rows keep their bits in batches of this size, moved to other places and beside padding."""
        shift = max(1, size // 2 - 1)
        moved = self._in_batches_of(size, np.roll(rows, shift, axis=0), np.roll(labels, shift))
        if not torch.equal(moved.roll(-shift, dims=0), reference):
            return False
        lone = self._forward(_padded(rows[:1], size), _padded(labels[:1], size))[:1]
        return torch.equal(lone, reference[:1]) and torch.equal(self._in_batches_of(size, rows, labels), reference)

    def _in_batches_of(self, size: int, rows: Rows, labels: Labels) -> Tensor:
        parts = []
        for start in range(0, len(labels), size):
            some = labels[start : start + size]
            out = self._forward(_padded(rows[start : start + size], size), _padded(some, size))
            parts.append(out[: len(some)])
        return torch.cat(parts)

    def _measure(self, rows: Rows, labels: Labels) -> float:
        """Seconds for one batch: the least of a few, since other programs only ever add to it."""
        took = []
        for _ in range(TIMINGS):
            start = time.perf_counter()
            self.compute(rows, labels)
            took.append(time.perf_counter() - start)
        return min(took)


class LatentRunner(ExactRunner):
    """Decodes: latents [n, *latent_shape] to uint8 pictures [n, H, W, C].

    Attributes:
        dtype: precision that the network computes in.
        image_shape: (height, width, channels).
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        max_batch: int,
        dtype: torch.dtype = torch.float32,
        threads: int = 1,
    ) -> None:
        """Warm up every bucket up to `max_batch`, keep the exact ones and measure them.

        Args:
            model: a `LatentModel` in evaluation mode and float32; left as it is.
            device: where it is.
            max_batch: largest batch to try; on a CPU one of `BATCH_FLOPS`, if that is smaller.
            dtype: precision to compute in, where it gives the pictures of float32.
            threads: of a CPU, for a network so large that one picture is worth sharing among them.

        Raises:
            ModelFault: a batch of one raises, or gives anything but finite [N, C, H, W] with C in (1, 3, 4).
            Exception: whatever a larger batch raises.
        """
        assert isinstance(model, LatentModel)
        super().__init__(device)
        compute_with(1)
        rows = max(PROBE_ROWS, max_batch)
        probe = np.random.Generator(np.random.Philox(key=0))
        latents = _draw(probe, rows, model)
        if isinstance(model, CodeModel):
            dtype = torch.float32  # fewer bits don't hold large whole numbers
        labels = probe.integers(max(model.num_classes, 1), size=rows)
        self._model, self.dtype = self._prepared(model, dtype, latents[:PROBE_ROWS], labels[:PROBE_ROWS])
        self.image_shape = self._check_output(latents, labels)
        flops = count_flops(model, torch.from_numpy(latents[:1]).to(device), labels[:1])
        self.threads = threads if flops > SHARED_FLOPS else 1
        sizes = self._sizes(flops, min(max_batch, most_rows(math.prod(self.image_shape))))
        self._warm_up(latents, labels, sizes)

    def _as_input(self, rows: Latents) -> Tensor:
        return torch.from_numpy(rows).to(self._device, self.dtype, non_blocking=True)

    def _as_output(self, out: Tensor) -> tuple[Pictures, NDArray[np.bool_]]:
        grey = out.permute(0, 2, 3, 1).to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        finite = torch.isfinite(grey.flatten(1).sum(1))  # one pass: NaN and infinity survive a sum
        grey.add_(1.0).mul_(127.5).round_().clamp_(0.0, 255.0)  # [-1, 1] -> 0..255
        return grey.to(torch.uint8).cpu().numpy(), finite.cpu().numpy()

    def _prepared(
        self, model: nn.Module, dtype: torch.dtype, latents: Latents, labels: Labels
    ) -> tuple[LatentModel, torch.dtype]:
        if self._device.type == "cpu":
            model, dtype = packing.prepare(model, dtype, torch.from_numpy(latents), torch.from_numpy(labels))
        elif dtype != torch.float32:
            model = copy.deepcopy(model).to(dtype)
        assert isinstance(model, LatentModel)
        return model, dtype

    def _check_output(self, latents: Latents, labels: Labels) -> tuple[int, int, int]:
        with torch.inference_mode():
            try:
                out = self._forward(latents[:1], labels[:1])
            except Exception as error:
                raise ModelFault(f"decode raises on a batch of one: {error}") from error
        if out.ndim != 4 or out.shape[0] != 1 or out.shape[1] not in IMAGE_CHANNELS:
            raise ModelFault(f"decode gives {list(out.shape)} for one latent; [1, 1 | 3 | 4, H, W] expected")
        if not bool(torch.isfinite(out).all()):
            raise ModelFault("decode gives non-finite values for a standard normal latent")
        channels, height, width = out.shape[1:]
        return height, width, channels


def count_flops(model: nn.Module, rows: Tensor, labels: Labels) -> int:
    """What `decode` takes for one row: a number of its own, not of the machine's mood, for it decides about bits."""
    with torch.inference_mode(), FlopCounter() as counter:
        model.decode(rows, torch.from_numpy(labels).to(rows.device))  # type: ignore[operator]  # a LatentModel
    return int(counter.total)


def _draw(probe: np.random.Generator, rows: int, model: LatentModel) -> Latents:
    """Latents like those that are going to come: [rows, *latent_shape]."""
    shape = (rows, *model.latent_shape)
    if isinstance(model, CodeModel):
        return probe.integers(model.num_codes, size=shape).astype(np.float32)
    return probe.standard_normal(shape, np.float32)


def most_rows(row_bytes: int) -> int:
    """Rows of so many bytes that fit into one frame with room to spare."""
    return max(1, MAX_BODY // 2 // row_bytes)


def powers_of_two(limit: int) -> list[int]:
    """1, 2, 4, ... below the limit, and the limit itself."""
    sizes = [1 << power for power in range(limit.bit_length()) if 1 << power < limit]
    return [*sizes, limit]


def _padded(rows: NDArray[Any], size: int) -> NDArray[Any]:
    """Rows followed by zeros up to the size of a bucket."""
    if len(rows) == size:
        return np.ascontiguousarray(rows)
    out = np.zeros((size, *rows.shape[1:]), rows.dtype)
    out[: len(rows)] = rows
    return out
