"""Rules that improve latents by gradients, one step at a time: numpy in, numpy out, in exact batches.

In float32 through the network as it was loaded: what is prepared for serving has no gradients. Knows tensors; which
rows take a step together, and how many steps, is the lane's business.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app import latents
from app.engine.jobs import Labels, Latents, RefineJob, Rows
from app.worker.runner import ExactRunner, LatentRunner, ModelFault, most_rows
from app.worker.threads import compute_with
from models.protocols import LatentModel

SIZES = (4, 8)  # rows of a step on a CPU, where more cost as much each and make a tick longer
DEVICE_SIZES = (4, 16, 64)


class RefiningRunner(ExactRunner):
    """What the rules share. A row is its state [S], which a step changes, and what stands beside it in that step [A].

    Attributes:
        shape: of a latent.
    """

    def __init__(self, model: LatentModel, decoder: LatentRunner, device: torch.device, max_batch: int) -> None:
        """Warm up every bucket, keep the exact ones and measure them.

        Args:
            model: in evaluation mode and float32, its parameters frozen; left as it is.
            decoder: of the same model, warmed up: large networks compute on as many threads here as there.
            device: where it is.
            max_batch: no larger one is tried.

        Raises:
            ModelFault: latents have no gradients, or not finite ones.
            Exception: whatever the network raises.
        """
        super().__init__(device)
        compute_with(1)
        self._model, self.threads = model, decoder.threads
        self.shape = tuple(model.latent_shape)
        sizes = SIZES if device.type == "cpu" else DEVICE_SIZES
        rows, labels = self._probe(max(sizes), model.num_classes, decoder.image_shape)
        self._check(rows[:1], labels[:1])
        most = min(max_batch, most_rows(4 * rows.shape[1]))
        self._warm_up(rows, labels, [size for size in sizes if size <= most] or [most])

    def _probe(self, count: int, classes: int, image_shape: tuple[int, int, int]) -> tuple[Rows, Labels]:
        """So many rows to try the rule on, with their labels."""
        drawn = [latents.from_seed(seed, self.shape, classes) for seed in range(count)]
        starts, labels = np.stack([latent for latent, _ in drawn]), np.array([label for _, label in drawn])
        height, width, _ = image_shape
        target = np.full(image_shape, 127, np.uint8)
        weights = np.full((height, width), 1 / (height * width), np.float32)
        job = RefineJob("", starts, labels, steps=2, seeds=np.arange(count), target=target, weights=weights)
        return np.stack([np.append(self.begin(job, i), self.beside(job, i, 0)) for i in range(count)]), labels

    def _check(self, rows: Rows, labels: Labels) -> None:
        z = torch.from_numpy(self.latents(rows)).to(self._device).requires_grad_(True)
        if not self._model.decode(z, torch.from_numpy(labels).to(self._device)).requires_grad:
            raise ModelFault("its pictures have no gradients")
        out = self._forward(rows, labels)
        if not bool(torch.isfinite(out).all()):
            raise ModelFault("its gradients are not finite for a latent that was drawn")

    def _forward(self, rows: Rows, labels: Labels) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            y = torch.from_numpy(labels).to(self._device, non_blocking=True)
            return self._step(self._as_input(rows), y).detach()

    def _as_input(self, rows: Rows) -> Tensor:
        return torch.from_numpy(rows).to(self._device, non_blocking=True)

    def _as_output(self, out: Tensor) -> tuple[Rows, NDArray[np.bool_]]:
        finite = torch.isfinite(out.sum(1))
        return out.cpu().numpy(), finite.cpu().numpy()

    def _step(self, rows: Tensor, labels: Tensor) -> Tensor:
        """The states [n, S] after a step of rows [n, S + A]."""
        raise NotImplementedError

    def begin(self, job: RefineJob, index: int) -> NDArray[np.float32]:
        """The state [S] of a row before its first step."""
        raise NotImplementedError

    def beside(self, job: RefineJob, index: int, step: int) -> NDArray[np.float32]:
        """What a step is told of a row besides its state, [A]."""
        raise NotImplementedError

    def latents(self, states: NDArray[np.float32]) -> Latents:
        """The latents [n, *latent_shape] in states [n, S], of which they are the beginning."""
        return states[:, : math.prod(self.shape)].reshape(-1, *self.shape)
