"""The VAE objective: the evidence lower bound with a Bernoulli likelihood (Kingma & Welling 2014)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.architecture import build
from models.vae import ConvVAE
from training import quality
from training.data import Batch, Dataset
from training.ema import Ema
from training.energy import energy_distance
from training.errors import TrainingError
from training.judge import JudgeNetwork, load_judge
from training.objective import adam, autocast
from training.objective_recipe import VaeRecipe
from training.recipe import Recipe


class VaeObjective:
    """Minimises -log p(x | z, y) + w KL(q(z | x, y) || p(z | y)), w rising to kl_weight; grey levels are probabilities.

    The bound alone gives blurred pictures, in which coats and shirts can't be told from pullovers. From step
    `guide_from` on, every `guide_every`-th step, a guide, a classifier c that is not the judge, therefore looks at
    pictures x' of latents from the prior. guide_weight times two things are added: -log c(y | x'), so that the decoder
    learns to show what makes the class, and the energy distance between the guide's features of x' and of the batch,
    so that it does not show that alone. It costs little in the bound.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, device: torch.device) -> None:
        """Build the network with fresh weights from torch's global generator.

        Raises:
            TrainingError: the network has no posterior or does not fit the data, or judge or guide can't be loaded.
        """
        assert isinstance(recipe.objective, VaeRecipe)
        self._recipe, self._options, self._dataset, self._device = recipe, recipe.objective, dataset, device
        network = build(recipe.model.architecture, recipe.model.config)
        if not isinstance(network, ConvVAE):
            raise TrainingError(f"model.architecture {recipe.model.architecture!r} is not a variational autoencoder")
        self._network = network.to(device)
        self.networks = {"vae": self._network}
        self.optimizers = {"vae": adam(self._network, recipe)}
        self.ema = Ema(self._network, recipe.ema_decay)
        self._guide = _guide(self._options, device)
        self._watch = quality.Watch(load_judge(self._options.judge, device), dataset)
        quality.check_generator("the decoder", self.ema.model, dataset, self._watch.judge)

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One step on the bound, with one sample of the posterior a picture."""
        with autocast(self._recipe, self._device):
            nll, kl = quality.bound_terms(self._network, batch)
            guidance = self._guidance(batch, step)
        weight = self._options.kl_weight * min(1.0, (step + 1) / max(1, self._options.kl_warmup))
        loss = nll.mean() + weight * kl.mean()
        metrics = {"nll": nll.mean().detach(), "kl": kl.mean().detach()}
        if guidance is not None:
            loss = loss + self._options.guide_weight * guidance
            metrics["guidance"] = guidance.detach()
        optimizer = self.optimizers["vae"]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        self.ema.update(self._network, step)
        return {"loss": loss.detach(), **metrics}

    def _guidance(self, batch: Batch, step: int) -> Tensor | None:
        """How far generated pictures of these labels are from their classes and from these ones, on a step for it."""
        if self._guide is None or step < self._options.guide_from or step % self._options.guide_every:
            return None
        latents = torch.randn(len(batch.labels), *self._network.latent_shape, device=self._device)
        generated = self._guide.features(self._network.decode(latents, batch.labels))
        with torch.no_grad():
            real = self._guide.features(batch.samples)
        unlike = F.cross_entropy(self._guide.to_logits(generated).float(), batch.labels)
        return unlike + energy_distance(generated.float(), real.float())

    def evaluate(self) -> dict[str, float]:
        """The bound on some test pictures, and what the judge makes of a few generated ones."""
        model = self.ema.model
        assert isinstance(model, ConvVAE)
        return {
            "negative_elbo": quality.negative_elbo(model, self._dataset.test, limit=quality.WATCHED),
            **self._watch.look(model),
        }

    def product(self) -> nn.Module:
        """The EMA network, encoder included."""
        return self.ema.model

    def samples(self) -> Tensor:
        """Unpicked pictures, a class a row."""
        return quality.sample_grid(self.ema.model)


def _guide(options: VaeRecipe, device: torch.device) -> JudgeNetwork | None:
    if not options.guide:
        return None
    guide = load_judge(options.guide, device)
    if guide.digest == load_judge(options.judge).digest:
        raise TrainingError("objective.guide is objective.judge: what steers the training must not measure it")
    return guide.network
