"""Inpainting by optimisation: latents whose pictures look like what is known of one, and are likely (Yeh et al. 2017).

arXiv 1607.07539: the contextual loss is the weighted distance from the known pixels, those near the hole counting most;
the prior loss keeps the picture one that the model would make. Steps are Adam's (Kingma & Ba 2015).
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.engine.jobs import RefineJob
from app.worker.refiner import RefiningRunner
from app.worker.runner import LatentRunner
from models.critic import Critic
from models.protocols import LatentModel

FIRST_RATE, LAST_RATE = 0.1, 0.01  # length of Adam's steps, from the first to the last
BETAS = (0.9, 0.99)
TINY = 1e-8
CONTEXT = 400.0  # energy of a picture whose known pixels are all wrong by 1 of the 2 between black and white
PRIOR = 0.1  # weight of |z|^2 / 2 and of the critic


class InpaintingRunner(RefiningRunner):
    """The state of a row is its latent and Adam's two means; beside it stand the rate, target and weights."""

    def __init__(
        self, model: LatentModel, critic: Critic | None, decoder: LatentRunner, device: torch.device, max_batch: int
    ) -> None:
        """Warm up; the critic, where the model has one, is on the device."""
        self._critic = critic
        height, width, channels = decoder.image_shape
        self._image = (channels, height, width)
        super().__init__(model, decoder, device, max_batch)

    def begin(self, job: RefineJob, index: int) -> NDArray[np.float32]:
        """The latent to start from, and no gradient seen yet."""
        latent = job.inputs[index].reshape(-1)
        return np.concatenate([latent, np.zeros(2 * latent.size, np.float32)])

    def beside(self, job: RefineJob, index: int, step: int) -> NDArray[np.float32]:  # noqa: ARG002  # all rows alike
        """The rate with Adam's corrections for the first steps in it, the target in [-1, 1] and the weights."""
        target = job.target.transpose(2, 0, 1).astype(np.float32).ravel() / np.float32(127.5) - np.float32(1)
        weights = np.broadcast_to(job.weights / len(job.target[0, 0]), self._image).ravel()
        return np.concatenate([[np.float32(_rate(step, job.steps))], target, weights])

    def _step(self, rows: Tensor, labels: Tensor) -> Tensor:
        size, pixels = math.prod(self.shape), math.prod(self._image)
        start, mean, square, rate, target, weights = torch.split(rows, [size, size, size, 1, pixels, pixels], dim=1)
        z = start.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(self._energy(z, labels, target, weights), z)
        mean = BETAS[0] * mean + (1 - BETAS[0]) * gradient
        square = BETAS[1] * square + (1 - BETAS[1]) * gradient.square()
        return torch.cat([start - rate * mean / (square.sqrt() + TINY), mean, square], dim=1)

    def _energy(self, z: Tensor, labels: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """Of all rows together."""
        samples = self._model.decode(z.view(-1, *self.shape), labels)
        context = (weights * (samples.flatten(1) - target).abs()).sum()
        prior = (0.5 * z.square()).sum()
        if self._critic is not None:
            prior = prior - self._critic.log_ratio(samples, labels).sum()
        return CONTEXT * context + PRIOR * prior


def _rate(step: int, steps: int) -> float:
    """From the first rate to the last one over the steps, times Adam's corrections of means that began at zero."""
    share = step / max(1, steps - 1)
    rate: float = FIRST_RATE * (LAST_RATE / FIRST_RATE) ** share
    return rate * math.sqrt(1 - BETAS[1] ** (step + 1)) / (1 - BETAS[0] ** (step + 1))
