"""The classifier objective: it trains the judge."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.architecture import build
from training import quality
from training.augment import mirrored, shifted
from training.data import Batch, Dataset, to_samples
from training.ema import Ema
from training.errors import TrainingError
from training.judge import JUDGES, JudgeNetwork
from training.objective import adam, autocast
from training.objective_recipe import ClassifierRecipe
from training.recipe import Recipe

MAX_SHIFT = 2  # pixels
NORMALISING = 10_000  # training pictures that set the scale of the features


class ClassifierObjective:
    """Cross-entropy on pictures that are mirrored and shifted at random."""

    def __init__(self, recipe: Recipe, dataset: Dataset, device: torch.device) -> None:
        """Build the classifier with fresh weights from torch's global generator.

        Raises:
            TrainingError: the network does not fit the data.
        """
        assert isinstance(recipe.objective, ClassifierRecipe)
        self._recipe, self._options, self._dataset, self._device = recipe, recipe.objective, dataset, device
        self._network = _classifier(recipe, dataset).to(device)
        self.networks = {"classifier": self._network}
        self.optimizers = {"classifier": adam(self._network, recipe, self._options.weight_decay)}
        self.ema = Ema(self._network, recipe.ema_decay)

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One step of cross-entropy."""
        with autocast(self._recipe, self._device):
            logits = self._network(augment(batch.samples))
        loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=self._options.label_smoothing)
        optimizer = self.optimizers["classifier"]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        self.ema.update(self._network, step)
        return {"loss": loss.detach()}

    def evaluate(self) -> dict[str, float]:
        """Accuracy on the test split."""
        return quality.measure_classifier(self.ema.model, self._dataset.test)

    def product(self) -> nn.Module:
        """The EMA judge, its features brought to unit variance over training pictures."""
        judge = copy.deepcopy(self.ema.model)
        assert isinstance(judge, JudgeNetwork)  # JUDGES holds nothing else
        pictures = self._dataset.train.pictures[:NORMALISING]
        judge.normalise_features(to_samples(pictures).to(self._device))
        return judge

    def samples(self) -> Tensor | None:
        """A classifier makes no pictures."""
        return None


def _classifier(recipe: Recipe, dataset: Dataset) -> nn.Module:
    """The network, tried once on a picture."""
    network = build(recipe.model.architecture, recipe.model.config, JUDGES).eval()
    sample, classes = dataset.test.batch(torch.arange(1)).samples, len(dataset.labels)
    try:
        logits = network(sample)
    except RuntimeError as error:
        raise TrainingError(f"model.config does not fit pictures of {list(sample.shape[1:])}: {error}") from error
    if logits.shape[1] != classes:
        raise TrainingError(f"model.config gives {logits.shape[1]} classes, data.labels names {classes}")
    return network.train()


def augment(samples: Tensor) -> Tensor:
    """Mirror each picture [N, C, H, W] with probability 1/2 and shift it by up to two pixels, background black."""
    return shifted(mirrored(samples, 0.5), MAX_SHIFT)
