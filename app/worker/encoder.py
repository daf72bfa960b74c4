"""Runs the encoder of a latent model: uint8 pictures in, latents out, in exact batches like those of its decoder.

In float32 whatever the decoder computes in: latents are kept and worked on by clients, for which the eight significant
bits of bf16 are too few, and encoding is rare.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from app.engine.jobs import Labels, Latents, Pictures
from app.worker import packing
from app.worker.runner import (
    PROBE_ROWS,
    SHARED_FLOPS,
    ExactRunner,
    LatentRunner,
    ModelFault,
    count_flops,
    most_rows,
)
from app.worker.threads import compute_with
from models.protocols import EncodingModel


class EncodingRunner(ExactRunner):
    """Encodes: uint8 pictures [n, H, W, C] to float32 latents [n, *latent_shape]."""

    def __init__(
        self, model: nn.Module, decoder: LatentRunner, device: torch.device, max_batch: int, threads: int = 1
    ) -> None:
        """Warm up every bucket up to `max_batch` with pictures of the model's own, keep the exact ones, measure them.

        Args:
            model: an `EncodingModel` in evaluation mode and float32; left as it is.
            decoder: of the same model, warmed up.
            device: where it is.
            max_batch: largest batch to try; on a CPU one of `BATCH_FLOPS`, if that is smaller.
            threads: of a CPU, for a network so large that one picture is worth sharing among them.

        Raises:
            ModelFault: a batch of one raises, or gives anything but finite [N, *latent_shape].
            Exception: whatever a larger batch raises.
        """
        assert isinstance(model, EncodingModel)
        super().__init__(device)
        compute_with(1)
        pictures, labels = _probe(model, decoder, PROBE_ROWS)
        network: nn.Module = _Encoder(model)
        samples = self._as_input(pictures)
        _check_output(network, samples[:1], labels[:1], model.latent_shape)
        flops = count_flops(network, samples[:1], labels[:1])
        self.threads = threads if flops > SHARED_FLOPS else 1
        if device.type == "cpu":
            network, _ = packing.prepare(network, torch.float32, samples, torch.from_numpy(labels))
        self._model = network  # type: ignore[assignment]  # it has `decode`, which is all that is called
        row_bytes = max(math.prod(decoder.image_shape), 4 * math.prod(model.latent_shape))
        sizes = self._sizes(flops, min(max_batch, most_rows(row_bytes)))
        rows = max(PROBE_ROWS, sizes[-1])  # the same pictures again and again, where there are fewer
        self._warm_up(np.resize(pictures, (rows, *pictures.shape[1:])), np.resize(labels, rows), sizes)

    def _as_input(self, rows: Pictures) -> Tensor:
        samples = torch.from_numpy(rows).to(self._device, torch.float32).permute(0, 3, 1, 2).contiguous()
        return samples.div_(127.5).sub_(1.0)  # 0..255 -> [-1, 1]

    def _as_output(self, out: Tensor) -> tuple[Latents, NDArray[np.bool_]]:
        latents = out.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        return latents.cpu().numpy(), torch.isfinite(latents.flatten(1).sum(1)).cpu().numpy()


class _Encoder(nn.Module):
    """A model with its two functions changed over: what prepares a network for serving knows it by `decode`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._inner = model

    def decode(self, samples: Tensor, labels: Tensor, /) -> Tensor:
        latents: Tensor = self._inner.encode(samples, labels)  # type: ignore[operator]  # an EncodingModel
        return latents


def _probe(model: EncodingModel, decoder: LatentRunner, rows: int) -> tuple[Pictures, Labels]:
    """So many pictures of drawn latents, with their labels."""
    probe = np.random.Generator(np.random.Philox(key=1))
    latents = probe.standard_normal((rows, *model.latent_shape), np.float32)
    labels = probe.integers(max(model.num_classes, 1), size=rows)
    step = decoder.buckets[-1]
    made = [decoder.compute(latents[i : i + step], labels[i : i + step])[0] for i in range(0, rows, step)]
    return np.concatenate(made), labels


def _check_output(network: nn.Module, samples: Tensor, labels: Labels, shape: Sequence[int]) -> None:
    with torch.inference_mode():
        try:
            out: Tensor = network.decode(samples, torch.from_numpy(labels).to(samples.device))  # type: ignore[operator]
        except Exception as error:
            raise ModelFault(f"encode raises on a batch of one: {error}") from error
    if tuple(out.shape) != (1, *shape):
        raise ModelFault(f"encode gives {list(out.shape)} for one picture; {[1, *shape]} expected")
    if not bool(torch.isfinite(out).all()):
        raise ModelFault("encode gives non-finite values for a picture of the model's own")
