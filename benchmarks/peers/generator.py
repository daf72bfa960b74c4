"""The generator that every peer serves: the same weights, seeds, pixels and PNG files as the service makes.

A batch is run as it comes, without padding: peers promise no bits. What a careful engineer would do for speed is done
here, for all of them: warm-up of every batch size, the faster memory layout, and a frozen heap.
"""

import gc
import secrets
import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from app import latents
from app.codecs import Provenance, encode
from app.worker import packing
from benchmarks.peers.contract import Body, Config
from models import checkpoint

LAYOUTS = (torch.contiguous_format, torch.channels_last)
LAYOUT_BATCHES = (1, 8, 32)
LAYOUT_ROUNDS = 5
PROBE_ROWS = 16


class Generator:
    """Seeds and labels in, PNG files out."""

    def __init__(self, config: Config) -> None:
        """Load, choose the layout, warm up every batch size up to `max_batch`, freeze the heap."""
        torch.set_num_threads(config.threads)
        loaded = checkpoint.load(config.weights)
        self._identity = f"{loaded.name}@{loaded.config.digest[:12]}"
        self._model, self._dtype = loaded.model, getattr(torch, config.dtype)
        if config.packed:
            self._model, self._dtype = packing.prepare(self._model, self._dtype, *self._probe())
        else:
            self._model.to(self._dtype).to(memory_format=min(LAYOUTS, key=self._seconds))
        for size in range(1, config.max_batch + 1):
            self._run(size)
        gc.collect()
        gc.freeze()

    def pictures(self, bodies: Sequence[Body]) -> list[bytes]:
        """One PNG file for each body, from one batch."""
        seeds = [secrets.randbelow(latents.MAX_SEED) if body.seed is None else body.seed for body in bodies]
        drawn = [latents.from_seed(seed, self._model.latent_shape, self._model.num_classes) for seed in seeds]
        labels = [own if body.label is None else body.label for body, (_, own) in zip(bodies, drawn, strict=True)]
        pixels = self.decode(np.stack([latent for latent, _ in drawn]), np.array(labels, np.int64))
        return [self._file(*row) for row in zip(pixels, seeds, labels, strict=True)]

    def decode(self, z: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        """[n, *latent_shape], [n] -> pictures [n, H, W, C], rounded as the service's worker does."""
        with torch.inference_mode():
            out = self._model.decode(torch.from_numpy(z).to(self._dtype), torch.from_numpy(labels))
            grey = out.float().add(1.0).mul_(127.5).round_().clamp_(0.0, 255.0)
            return grey.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()

    def _probe(self) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (PROBE_ROWS, *self._model.latent_shape)
        return torch.randn(shape), torch.randint(max(1, self._model.num_classes), (PROBE_ROWS,))

    def _file(self, picture: NDArray[np.uint8], seed: int, label: int) -> bytes:
        story = {"seed": seed, "label": label} if self._model.num_classes else {"seed": seed}
        return encode(picture, "png", Provenance(self._identity, story))

    def _seconds(self, layout: torch.memory_format) -> float:
        """Of one picture in this layout, over a few batch sizes: the sum of the best runs."""
        self._model.to(memory_format=layout)
        best = dict.fromkeys(LAYOUT_BATCHES, float("inf"))
        for size in LAYOUT_BATCHES * LAYOUT_ROUNDS:
            start = time.perf_counter()
            self._run(size)
            best[size] = min(best[size], (time.perf_counter() - start) / size)
        return sum(best.values())

    def _run(self, size: int) -> None:
        self.decode(np.zeros((size, *self._model.latent_shape), np.float32), np.zeros(size, np.int64))
