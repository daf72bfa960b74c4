"""Discriminator-driven latent sampling, a step at a time: latents whose pictures the critic takes for real.

Knows rows and their noise; the rule itself is `models.critic`'s.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app import latents
from app.engine.jobs import RefineJob
from app.worker.refiner import RefiningRunner
from app.worker.runner import LatentRunner
from models.critic import Critic, langevin_step
from models.protocols import LatentModel


class LangevinRunner(RefiningRunner):
    """The state of a row is its latent, beside it stands the noise of the step: a function of its seed and the step."""

    def __init__(
        self, model: LatentModel, critic: Critic, decoder: LatentRunner, device: torch.device, max_batch: int
    ) -> None:
        """Warm up; the critic belongs to the model, and is on the device."""
        self._critic = critic
        super().__init__(model, decoder, device, max_batch)

    def begin(self, job: RefineJob, index: int) -> NDArray[np.float32]:
        """The latent as it was drawn."""
        return np.array(job.inputs[index], np.float32).reshape(-1)

    def beside(self, job: RefineJob, index: int, step: int) -> NDArray[np.float32]:
        """Standard normal noise."""
        return latents.step_noise(int(job.seeds[index]), step, self.shape).reshape(-1)

    def _step(self, rows: Tensor, labels: Tensor) -> Tensor:
        z, noise = (part.reshape(-1, *self.shape) for part in rows.chunk(2, dim=1))
        return langevin_step(self._model, self._critic, z, labels, noise).flatten(1)
