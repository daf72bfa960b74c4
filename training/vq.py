"""The VQ objective: pictures through the nearest codes (van den Oord et al. 2017)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.architecture import build
from models.vq import VQVAE
from training import reconstruction
from training.captioned import CaptionedDataset
from training.codebook import CodebookTracker
from training.data import Batch
from training.ema import Ema
from training.errors import TrainingError
from training.objective import adam, autocast
from training.objective_recipe import VqRecipe
from training.recipe import Recipe


class VqObjective:
    """Minimises |x - decoder(code)|^2 + commitment |features - code|^2, means over all numbers.

    The gradient of the first term passes the choice of the code as if nothing had been rounded (Bengio et al. 2013).
    """

    def __init__(self, recipe: Recipe, dataset: CaptionedDataset, device: torch.device) -> None:
        """Build the network with fresh weights from torch's global generator.

        Raises:
            TrainingError: the network has no codebook or does not fit the data.
        """
        assert isinstance(recipe.objective, VqRecipe)
        self._recipe, self._options, self._dataset, self._device = recipe, recipe.objective, dataset, device
        network = build(recipe.model.architecture, recipe.model.config)
        if not isinstance(network, VQVAE):
            raise TrainingError(f"model.architecture {recipe.model.architecture!r} is not a discrete autoencoder")
        self._network = network.to(device)
        _check_fit(self._network, dataset)
        entries = self._network.entries
        self._tracker = CodebookTracker(entries, self._options.decay, self._options.rarest).to(device)
        self.networks = {"vq": self._network, "tracker": self._tracker}
        self.optimizers = {"vq": adam(self._network, recipe)}
        self.ema = Ema(self._network, recipe.ema_decay)

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One step on pictures; captions are not looked at."""
        with autocast(self._recipe, self._device):
            features = self._network.features(batch.samples)
        features = features.float()
        codes, dead = self._choose(features.detach(), step)
        quantised = self._network.look_up(codes)
        with autocast(self._recipe, self._device):
            drawn = self._network.draw(features + (quantised - features).detach())
        error = F.mse_loss(drawn.float(), batch.samples)
        commitment = F.mse_loss(features, quantised)
        optimizer = self.optimizers["vq"]
        optimizer.zero_grad()
        (error + self._options.commitment * commitment).backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
        self.ema.update(self._network, step)
        return {"error": error.detach(), "commitment": commitment.detach(), "dead_codes": dead.float()}

    def _choose(self, features: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The nearest codes of features [N, D, side, side], which the codebook then follows; and how many were dead."""
        rows, entries = features.permute(0, 2, 3, 1).flatten(0, 2), self._network.entries
        if step == 0:
            self._tracker.begin(entries, rows)
        codes = self._network.nearest(features)
        dead = self._tracker.update(entries, rows, codes.flatten(), restart=step < self._options.restart_until)
        return codes, dead

    def evaluate(self) -> dict[str, float]:
        """Reconstruction of some pictures, and the use of the codes."""
        model = self.ema.model
        assert isinstance(model, VQVAE)
        return reconstruction.measure(model, self._dataset, limit=reconstruction.WATCHED)

    def product(self) -> nn.Module:
        """The EMA network."""
        return self.ema.model

    def samples(self) -> Tensor:
        """Unpicked pictures, each row followed by its reconstructions."""
        model = self.ema.model
        assert isinstance(model, VQVAE)
        return reconstruction.sample_grid(model, self._dataset)


def _check_fit(network: VQVAE, dataset: CaptionedDataset) -> None:
    """The network, tried once on a picture."""
    sample = dataset.test.batch(torch.arange(1)).samples.to(network.entries.device)
    try:
        drawn = network.draw(network.look_up(network.nearest(network.features(sample))))
    except RuntimeError as error:
        raise TrainingError(f"model.config does not fit pictures of {list(sample.shape[1:])}: {error}") from error
    if drawn.shape != sample.shape:
        raise TrainingError(
            f"model.config makes pictures of {list(drawn.shape[1:])}, the data are {list(sample.shape[1:])}"
        )
