"""The GAN objective: a generator and a discriminator under one of several losses and penalties.

The defaults of the recipes are relativistic pairing with zero-centred gradient penalties on both sides: Huang et al.
2024, "The GAN is dead; long live the GAN! A Modern GAN Baseline", arXiv 2501.05441.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

import models
from models.architecture import build
from models.info_gan import GROUP, InfoDiscriminator, InfoGenerator, Reading, even
from models.style_gan import StyleGenerator
from training import information, quality
from training.augment import mirrored, shifted
from training.best import Best
from training.data import Batch, Dataset
from training.ema import Ema
from training.errors import TrainingError
from training.judge import Judge, load_judge
from training.latents import draw_latents, mixed
from training.losses import LOSSES, one_centred, zero_centred
from training.objective import adam, autocast, descend
from training.objective_recipe import GanRecipe
from training.recipe import Recipe
from training.unrolled import Weights, look_ahead

DISCRIMINATORS: dict[str, type[nn.Module]] = {**models.CRITICS, "info": InfoDiscriminator}  # the last is never served


class GanObjective:
    """Generator and discriminator in turn, one step each.

    On every `penalty_every`-th step the discriminator's loss also has gamma / 2 times its gradient penalty; the term
    is not multiplied by `penalty_every`, so that the mean strength over steps is gamma / penalty_every. Both players
    see the same random changes of pictures, real and generated alike.

    With InfoGAN's pair of networks, categories and codes are drawn for each picture, both players are rewarded for what
    can be read of them in it, and the classes of the data are used by neither.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, device: torch.device) -> None:
        """Build both networks with fresh weights from torch's global generator.

        Raises:
            TrainingError: a judge can't be loaded, both are the same, or a network does not fit the data.
        """
        assert isinstance(recipe.objective, GanRecipe)
        self._recipe, self._options, self._device = recipe, recipe.objective, device
        self._loss = LOSSES[self._options.loss]
        self._generator = build(recipe.model.architecture, recipe.model.config).to(device)
        self._discriminator = _discriminator(self._options, dataset).to(device)
        _check_information(self._options, self._generator, self._discriminator)
        _check_groups(recipe.batch_size, self._discriminator)
        self.ema = Ema(self._generator, recipe.ema_decay)
        self._best = Best(self.ema.model)
        players = {"generator": self._generator, "discriminator": self._discriminator}
        self.optimizers = {name: adam(network, recipe) for name, network in players.items()}
        self.networks: dict[str, nn.Module] = {**players, "best": self._best}
        self._watch = quality.Watch(_watching_judge(self._options, device), dataset)
        quality.check_generator("the generator", self.ema.model, dataset, self._watch.judge)

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One step of the discriminator, then one of the generator."""
        metrics = self._discriminator_step(batch, penalise=step % self._options.penalty_every == 0)
        metrics |= self._generator_step(batch)
        self.ema.update(self._generator, step)
        return metrics

    def _draw(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Latents, and labels [N] of pictures beside real ones of these labels [N]."""
        if isinstance(self._generator, InfoGenerator):
            labels = torch.randint(max(1, self._generator.num_classes), labels.shape, device=self._device)
        latents = draw_latents(quality.latent_model(self._generator), len(labels), device=self._device)
        if isinstance(self._generator, StyleGenerator):
            latents = mixed(latents, self._options.style_mixing)
        return latents, labels

    def _generate(self, latents: Tensor, labels: Tensor) -> Tensor:
        out: Tensor = self._generator(latents, labels)
        return out.float()

    def _changed(self, samples: Tensor) -> Tensor:
        augment = self._options.augment
        if augment.mirror:
            samples = mirrored(samples, augment.mirror)
        return shifted(samples, augment.shift, augment.shifted) if augment.shift else samples

    def _look(self, samples: Tensor, labels: Tensor) -> tuple[Tensor, Reading | None]:
        """The discriminator's logits, [N], and what it reads in the pictures where it has a head for that."""
        if isinstance(self._discriminator, InfoDiscriminator):
            return self._discriminator.look(samples)
        return self._discriminator(samples, labels), None

    def _discriminator_step(self, batch: Batch, *, penalise: bool) -> dict[str, Tensor]:
        count = len(batch.labels)
        penalise = penalise and self._options.penalty != "none"
        with autocast(self._recipe, self._device):
            with torch.no_grad():
                latents, labels = self._draw(batch.labels)
                both = self._changed(torch.cat([batch.samples, self._generate(latents, labels)]))
            both.requires_grad_(penalise)
            logits, reading = self._look(both, torch.cat([batch.labels, labels]))
        logits = logits.float()
        real, fake = logits[:count], logits[count:]
        loss = self._loss.discriminator(real, fake)
        metrics = {"d_loss": loss.detach(), "d_margin": (real - fake).mean().detach()}
        if reading is not None:
            told, read = self._told(Reading(*(part[count:] for part in reading)), latents, labels)
            loss, metrics = loss - told, metrics | read
        if penalise:
            penalty = self._penalty(logits, both, batch.labels)
            metrics["penalty"] = penalty.detach()
            loss = loss + self._options.gamma / 2 * penalty
        descend(loss, self.optimizers["discriminator"], self._options.clip)
        return metrics

    def _told(self, reading: Reading, latents: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoGAN's bounds by their weights, summed; and each as it is."""
        assert isinstance(self._generator, InfoGenerator)
        codes = even(latents[:, -self._generator.codes :])
        of_categories, of_codes = information.bounds(reading, labels, codes)
        weights = self._options.information
        told = weights.categories * of_categories + weights.codes * of_codes
        return told, {"category_nats": of_categories.detach(), "code_nats": of_codes.detach()}

    def _penalty(self, logits: Tensor, both: Tensor, labels: Tensor) -> Tensor:
        count = len(labels)
        if self._options.penalty == "interpolated":
            with autocast(self._recipe, self._device):
                real, fake = both.detach()[:count], both.detach()[count:]
                return one_centred(lambda samples: self._discriminator(samples, labels).float(), real, fake)
        on_real, on_fake = zero_centred(logits, both, count)
        return on_real if self._options.penalty == "r1" else on_real + on_fake

    def _generator_step(self, batch: Batch) -> dict[str, Tensor]:
        self._discriminator.requires_grad_(False)  # its weights' gradients are not needed here
        with autocast(self._recipe, self._device):
            seen = self._changed(batch.samples)
            latents, labels = self._draw(batch.labels)
            made = self._changed(self._generate(latents, labels))
            with torch.no_grad():
                real = self._discriminator(seen, batch.labels)
            fake, reading = self._look(made, labels)
        if self._options.unrolled:
            real, fake = self._look_ahead(seen, made, batch.labels, labels)
        loss = self._loss.generator(real.float(), fake.float())
        metrics = {"g_loss": loss.detach()}
        if reading is not None:
            loss = loss - self._told(reading, latents, labels)[0]
        descend(loss, self.optimizers["generator"], self._options.clip)
        self._discriminator.requires_grad_(True)
        return metrics

    def _look_ahead(self, seen: Tensor, made: Tensor, *labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N] of real and of generated pictures by the discriminator as it will be, trained on these pictures.

        They depend on the generated ones in two ways: as what is looked at, and as what it was trained on.
        """

        def logits(weights: Weights) -> tuple[Tensor, Tensor]:
            with autocast(self._recipe, self._device):
                both = torch.cat([seen, made]), torch.cat(labels)
                real, fake = functional_call(self._discriminator, dict(weights), both).float().split(len(seen))
            return real, fake

        def loss(weights: Weights) -> Tensor:
            return self._loss.discriminator(*logits(weights))

        optimizer = self.optimizers["discriminator"]
        return logits(look_ahead(self._discriminator, optimizer, loss, self._options.unrolled))

    def evaluate(self) -> dict[str, float]:
        """What the steering judge makes of a few pictures of the EMA generator; the best so far is kept."""
        found = self._watch.look(_settled(self.ema.model))
        self._best.offer(self.ema.model, found["fd_clf_rough"])
        return found

    def product(self) -> nn.Module:
        """The EMA generator as it was when the steering judge liked it best, or as it is now."""
        best = self._best.model if self._options.keep == "best" and self._best.found else self.ema.model
        return _settled(best)

    def samples(self) -> Tensor:
        """Unpicked pictures, a class a row."""
        return quality.sample_grid(_settled(self.ema.model))


def _settled(model: nn.Module) -> nn.Module:
    """The network with whatever follows from its weights brought up to date."""
    if isinstance(model, StyleGenerator):
        model.settle()
    return model


def _watching_judge(options: GanRecipe, device: torch.device) -> Judge:
    watch = load_judge(options.watch, device)
    if watch.digest == load_judge(options.judge).digest:
        raise TrainingError("objective.watch is objective.judge: what picks the network must not measure it")
    return watch


def _discriminator(options: GanRecipe, dataset: Dataset) -> nn.Module:
    """The discriminator, tried once on a picture of the last class."""
    sample, last = dataset.test.batch(torch.arange(1)).samples, torch.tensor([len(dataset.labels) - 1])
    config: dict[str, Any] = dict(options.discriminator)
    kind = config.pop("kind", None)
    if kind not in DISCRIMINATORS:
        known = ", ".join(sorted(DISCRIMINATORS))
        raise TrainingError(f"objective.discriminator.kind must be one of {known}, got {kind!r}")
    try:
        network = DISCRIMINATORS[kind](**config)
        with torch.no_grad():
            network(sample, last)
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        raise TrainingError(f"objective.discriminator {dict(options.discriminator)}: {error}") from error
    return network


def _check_information(options: GanRecipe, generator: nn.Module, discriminator: nn.Module) -> None:
    """Refuse half of an InfoGAN: codes that nobody reads, or somebody who reads what was never drawn."""
    weights, told = options.information, None
    if isinstance(generator, InfoGenerator):
        told = (generator.num_classes, generator.codes)
    read = (discriminator.categories, discriminator.codes) if isinstance(discriminator, InfoDiscriminator) else None
    if told != read:
        raise TrainingError(
            f"the generator has {_said(told)}, objective.discriminator reads {_said(read)}: model.architecture "
            '"info-gan" and discriminator.kind "info" go together, with as many of each'
        )
    if told is not None and told[0] == 0:
        raise TrainingError("model.config.num_classes of an info-gan must be at least 1: they are its categories")
    if (told is None) != (weights.categories == 0 and weights.codes == 0):
        raise TrainingError('objective.information: above 0 for model.architecture "info-gan", 0 for all others')


def _check_groups(batch_size: int, discriminator: nn.Module) -> None:
    """Refuse batches in which a group of samples, whose variety is looked at, would be half real and half generated."""
    if isinstance(discriminator, InfoDiscriminator) and batch_size % GROUP:
        raise TrainingError(f'batch_size {batch_size}: discriminator.kind "info" takes a multiple of {GROUP}')


def _said(found: tuple[int, int] | None) -> str:
    return "no categories or codes" if found is None else f"{found[0]} categories and {found[1]} codes"
