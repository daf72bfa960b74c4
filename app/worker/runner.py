"""Runs one latent model on the device: numpy in, uint8 pictures out, in batches of a few exact sizes.

Knows tensors and the device; holds no policy: which rows make a batch is the batcher's business.
"""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from app.engine.jobs import Labels, Latents, Pictures
from app.engine.link import MAX_BODY
from app.worker import packing
from app.worker.device import tell_apart
from app.worker.flops import FlopCounter
from app.worker.threads import compute_with
from models.protocols import LatentModel

PROBE_ROWS = 16  # rows that every bucket is checked on; kernels differ by batch size, so few rows tell
IMAGE_CHANNELS = (1, 3, 4)
SHARED_FLOPS = 4e9  # a picture that keeps one core busy for tens of milliseconds


class ModelFault(Exception):
    """The network does not do what its protocol promises."""


class LatentRunner:
    """One network with the batch sizes that it may be run at.

    A batch is padded to a bucket. `buckets` holds those sizes at which every row comes out with the same bits as at the
    largest, wherever it lies and whoever its batch-mates are: the seed contract rests on it.

    Attributes:
        threads: that compute one batch together; one for small networks, whose batches run beside each other.
        dtype: precision that the network computes in.
        buckets: exact batch sizes, ascending.
        seconds: of compute for a batch of each bucket, measured at warm-up.
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
            model: a `LatentModel` in evaluation mode and float32.
            device: where it is.
            max_batch: largest batch to try.
            dtype: precision to compute in, where it gives the pictures of float32.
            threads: of a CPU, for a network so large that one picture is worth sharing among them.

        Raises:
            ModelFault: a batch of one raises, or gives anything but finite [N, C, H, W] with C in (1, 3, 4).
            Exception: whatever a larger batch raises.
        """
        assert isinstance(model, LatentModel)
        self._device = device
        compute_with(1)
        rows = max(PROBE_ROWS, max_batch)
        probe = np.random.Generator(np.random.Philox(key=0))
        latents = probe.standard_normal((rows, *model.latent_shape), np.float32)
        labels = probe.integers(max(model.num_classes, 1), size=rows)
        self._model, self.dtype = self._prepared(model, dtype, latents[:PROBE_ROWS], labels[:PROBE_ROWS])
        self.image_shape = self._check_output(latents, labels)
        self.threads = threads if self._flops(model, latents[:1], labels[:1]) > SHARED_FLOPS else 1
        self.buckets = self._exact_buckets(powers_of_two(min(max_batch, self._most_rows())), latents, labels)
        self.seconds = tuple(self._measure(latents[:size], labels[:size]) for size in self.buckets)

    def decode(self, latents: Latents, labels: Labels) -> tuple[Pictures, NDArray[np.bool_]]:
        """Decode rows: [n, *latent_shape], [n], n <= largest bucket -> pictures [n, H, W, C], finite [n].

        Raises:
            MemoryError: there was not enough.
            DeviceLost: no call to the device will succeed any more.
            Exception: whatever the network raises.
        """
        compute_with(self.threads)
        try:
            with torch.inference_mode():
                return self._decode(latents, labels)
        except Exception as error:
            tell_apart(error, self._device)
            raise

    def _decode(self, latents: Latents, labels: Labels) -> tuple[Pictures, NDArray[np.bool_]]:
        rows = len(labels)
        size = self.bucket_for(rows)
        out = self._forward(_padded(latents, size), _padded(labels, size))[:rows]
        grey = out.permute(0, 2, 3, 1).to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        finite = torch.isfinite(grey.flatten(1).sum(1))  # one pass: NaN and infinity survive a sum
        grey.add_(1.0).mul_(127.5).round_().clamp_(0.0, 255.0)  # [-1, 1] -> 0..255
        return grey.to(torch.uint8).cpu().numpy(), finite.cpu().numpy()

    def bucket_for(self, rows: int) -> int:
        """The smallest bucket that holds so many rows."""
        return next(size for size in self.buckets if size >= rows)

    def _forward(self, latents: Latents, labels: Labels) -> torch.Tensor:
        x = torch.from_numpy(latents).to(self._device, self.dtype, non_blocking=True)
        y = torch.from_numpy(labels).to(self._device, non_blocking=True)
        return self._model.decode(x, y)

    def _flops(self, model: nn.Module, latents: Latents, labels: Labels) -> int:
        """Of one picture: a number of the network's own, not of the machine's mood, for it decides about bits."""
        with torch.inference_mode(), FlopCounter() as counter:
            model.decode(torch.from_numpy(latents).to(self._device), torch.from_numpy(labels).to(self._device))  # type: ignore[operator]
        return int(counter.total)

    def _prepared(
        self, model: nn.Module, dtype: torch.dtype, latents: Latents, labels: Labels
    ) -> tuple[LatentModel, torch.dtype]:
        if self._device.type == "cpu":
            model, dtype = packing.prepare(model, dtype, torch.from_numpy(latents), torch.from_numpy(labels))
        else:
            model = model.to(dtype)
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

    def _most_rows(self) -> int:
        """Rows whose pictures fit into one frame with room to spare."""
        return max(1, MAX_BODY // 2 // math.prod(self.image_shape))

    def _exact_buckets(self, sizes: Sequence[int], latents: Latents, labels: Labels) -> tuple[int, ...]:
        """Sizes from the largest down that agree with it bit by bit; a batch of one agrees at least with itself."""
        with torch.inference_mode():
            reference = self._in_batches_of(sizes[-1], latents, labels)
            exact: list[int] = []
            for size in reversed(sizes):
                rows = min(len(labels), max(size, PROBE_ROWS))
                if not self._agrees(size, latents[:rows], labels[:rows], reference[:rows]):
                    break
                exact.insert(0, size)
        return tuple(exact) or (1,)

    def _agrees(self, size: int, latents: Latents, labels: Labels, reference: torch.Tensor) -> bool:
        """Whether rows keep their bits in batches of this size, moved to other places and beside padding."""
        shift = max(1, size // 2 - 1)
        moved = self._in_batches_of(size, np.roll(latents, shift, axis=0), np.roll(labels, shift))
        if not torch.equal(moved.roll(-shift, dims=0), reference):
            return False
        lone = self._forward(_padded(latents[:1], size), _padded(labels[:1], size))[:1]
        return torch.equal(lone, reference[:1]) and torch.equal(self._in_batches_of(size, latents, labels), reference)

    def _in_batches_of(self, size: int, latents: Latents, labels: Labels) -> torch.Tensor:
        parts = []
        for start in range(0, len(labels), size):
            rows = labels[start : start + size]
            out = self._forward(_padded(latents[start : start + size], size), _padded(rows, size))
            parts.append(out[: len(rows)])
        return torch.cat(parts)

    def _measure(self, latents: Latents, labels: Labels) -> float:
        """Seconds for one batch: the best of four, the first of which also warms this size up."""
        took = []
        for _ in range(4):
            start = time.perf_counter()
            self.decode(latents, labels)
            took.append(time.perf_counter() - start)
        return min(took)


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
