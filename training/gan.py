"""The GAN objective: relativistic pairing with zero-centred gradient penalties on both sides (R3GAN).

Huang et al. 2024, "The GAN is dead; long live the GAN! A Modern GAN Baseline", arXiv 2501.05441.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from models import checkpoint
from models.gan import ConvDiscriminator
from training import quality
from training.data import Batch, Dataset
from training.ema import Ema
from training.errors import TrainingError
from training.judge import load_judge
from training.objective import adam, autocast
from training.recipe import GanRecipe, Recipe


class GanObjective:
    """RpGAN + R1 + R2.

    With logits a for real and b for generated pictures of the same labels, the discriminator minimises
    softplus(b - a) and the generator softplus(a - b). On every `penalty_every`-th step the discriminator's loss also
    has gamma / 2 * (|d a / d real|^2 + |d b / d generated|^2); the term is not multiplied by `penalty_every`, so that
    the mean strength over steps is gamma / penalty_every.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, device: torch.device) -> None:
        """Build both networks with fresh weights from torch's global generator.

        Raises:
            TrainingError: the judge can't be loaded, or a network does not fit the data.
        """
        assert isinstance(recipe.objective, GanRecipe)
        self._recipe, self._options, self._device = recipe, recipe.objective, device
        self._generator = checkpoint.build(recipe.model.architecture, recipe.model.config).to(device)
        self._discriminator = _discriminator(self._options, dataset).to(device)
        self.networks = {"generator": self._generator, "discriminator": self._discriminator}
        self.optimizers = {name: adam(network, recipe) for name, network in self.networks.items()}
        self.ema = Ema(self._generator, recipe.ema_decay)
        self._watch = quality.Watch(load_judge(self._options.judge, device), dataset)
        quality.check_generator("the generator", self.ema.model, dataset, self._watch.judge)

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One step of the discriminator, then one of the generator."""
        metrics = self._discriminator_step(batch, penalise=step % self._options.penalty_every == 0)
        metrics |= self._generator_step(batch)
        self.ema.update(self._generator, step)
        return metrics

    def _generate(self, labels: Tensor) -> Tensor:
        latents = torch.randn(len(labels), *quality.latent_model(self._generator).latent_shape, device=self._device)
        out: Tensor = self._generator(latents, labels)
        return out

    def _discriminator_step(self, batch: Batch, *, penalise: bool) -> dict[str, Tensor]:
        count = len(batch.labels)
        with autocast(self._recipe, self._device):
            with torch.no_grad():
                generated = self._generate(batch.labels)
            both = torch.cat([batch.samples, generated.float()]).requires_grad_(penalise)
            logits = self._discriminator(both, batch.labels.repeat(2)).float()
        real, fake = logits[:count], logits[count:]
        loss = F.softplus(fake - real).mean()
        metrics = {"d_loss": loss.detach(), "d_margin": (real - fake).mean().detach()}
        if penalise:
            penalty = gradient_penalty(logits, both, count)
            metrics["penalty"] = penalty.detach()
            loss = loss + self._options.gamma / 2 * penalty
        _descend(loss, self.optimizers["discriminator"])
        return metrics

    def _generator_step(self, batch: Batch) -> dict[str, Tensor]:
        self._discriminator.requires_grad_(False)  # its weights' gradients are not needed here
        with autocast(self._recipe, self._device):
            with torch.no_grad():
                real = self._discriminator(batch.samples, batch.labels)
            fake = self._discriminator(self._generate(batch.labels).float(), batch.labels)
        loss = F.softplus(real.float() - fake.float()).mean()
        _descend(loss, self.optimizers["generator"])
        self._discriminator.requires_grad_(True)
        return {"g_loss": loss.detach()}

    def evaluate(self) -> dict[str, float]:
        """What the judge makes of a few pictures of the EMA generator."""
        return self._watch.look(self.ema.model)

    def product(self) -> nn.Module:
        """The EMA generator."""
        return self.ema.model

    def samples(self) -> Tensor:
        """Unpicked pictures, a class a row."""
        return quality.sample_grid(self.ema.model)


def gradient_penalty(logits: Tensor, samples: Tensor, count: int) -> Tensor:
    """R1 + R2: the mean squared norms of d logit / d sample over the first `count` rows and over the others, summed."""
    (gradient,) = torch.autograd.grad(logits.sum(), samples, create_graph=True)
    squared = gradient.float().square().flatten(1).sum(1)
    return squared[:count].mean() + squared[count:].mean()


def _discriminator(options: GanRecipe, dataset: Dataset) -> nn.Module:
    """The discriminator, tried once on a picture of the last class."""
    sample, last = dataset.test.batch(torch.arange(1)).samples, torch.tensor([len(dataset.labels) - 1])
    try:
        network = ConvDiscriminator(**options.discriminator)
        with torch.no_grad():
            network(sample, last)
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        raise TrainingError(f"objective.discriminator {dict(options.discriminator)}: {error}") from error
    return network


def _descend(loss: Tensor, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    optimizer.step()
