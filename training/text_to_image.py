"""The text-to-image objective: the cross-entropy of a picture's codes behind its caption (Ramesh et al. 2021)."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.architecture import build
from models.text_to_image import TextToImage
from training import illustration
from training.captioned import CaptionedDataset
from training.data import Batch
from training.ema import Ema
from training.errors import TrainingError
from training.illustrator import Illustrator, check_fit, decoder_of, load_decoder, manners, predict
from training.judge import load_judge
from training.language import plain_attention
from training.objective import adam, autocast
from training.objective_recipe import TextToImageRecipe
from training.recipe import Recipe


class TextToImageObjective:
    """AdamW on the mean of -log p(code | caption, the codes before it), with a clipped gradient.

    Some captions are replaced by padding, so that the network also knows pictures without one, as guidance without a
    classifier needs it (Ho & Salimans 2022). The learning rate is the loop's, led up to over the warm-up.
    """

    def __init__(self, recipe: Recipe, dataset: CaptionedDataset, device: torch.device) -> None:
        """Load the autoencoder of the codes, and build the network with fresh weights from torch's global generator.

        What it knows of codes begins with how they look.

        Raises:
            TrainingError: the network is no text-to-image network or does not fit the data or the autoencoder, or the
                autoencoder or the judge can't be loaded.
        """
        assert isinstance(recipe.objective, TextToImageRecipe)
        self._recipe, self._options, self._dataset, self._device = recipe, recipe.objective, dataset, device
        network = build(recipe.model.architecture, recipe.model.config)
        if not isinstance(network, TextToImage):
            raise TrainingError(f"model.architecture {recipe.model.architecture!r} draws no pictures for captions")
        load_judge(self._options.judge)  # so that a missing one is said now, not at the end
        self._decoder = decoder_of(load_decoder(Path(self._options.decoder), dataset)).to(device)
        check_fit(network, self._decoder, dataset)
        _begin_alike(network, self._decoder.entries.cpu())
        self._network = network.to(device)
        self.networks = {"text-to-image": self._network}
        self.optimizers = {"text-to-image": adam(self._network, recipe, self._options.weight_decay)}
        self.ema = Ema(self._network, recipe.ema_decay)

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One step on the mean loss of all codes, in nats a code."""
        optimizer = self.optimizers["text-to-image"]
        for group in optimizer.param_groups:
            group["lr"] *= min(1.0, (step + 1) / max(1, self._options.warmup))
        with torch.no_grad():
            codes = self._decoder.encode(batch.samples, batch.labels).long().flatten(1)
        with autocast(self._recipe, self._device), plain_attention(self._device):
            logits = predict(self._network, self._dropped(batch.labels), codes)
        loss = F.cross_entropy(logits.float().flatten(0, 1), codes.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        norm = nn.utils.clip_grad_norm_(self._network.parameters(), self._options.clip)
        optimizer.step()
        self.ema.update(self._network, step)
        return {"loss": loss.detach(), "gradient_norm": norm.detach()}

    def _dropped(self, captions: Tensor) -> Tensor:
        """Captions [N, T], some of them replaced by padding."""
        dropped = torch.rand(len(captions), 1, device=captions.device) < self._options.caption_dropout
        return captions.masked_fill(dropped, self._network.padding)

    def evaluate(self) -> dict[str, float]:
        """Bits per code of some held-out scenes and of some emoji."""
        return illustration.bits_per_code(self._illustrator, self._dataset, limit=illustration.WATCHED)

    @property
    def _illustrator(self) -> Illustrator:
        assert isinstance(self.ema.model, TextToImage)
        return Illustrator(self.ema.model, self._decoder)

    def product(self) -> nn.Module:
        """The EMA network."""
        return self.ema.model

    def samples(self) -> Tensor:
        """Unpicked pictures of held-out captions and of emoji."""
        tried = manners(self._options.guidance, self._options.temperature)
        return illustration.sample_grid(self._illustrator, self._dataset, tried[len(tried) // 2])


@torch.no_grad()
def _begin_alike(network: TextToImage, entries: Tensor) -> None:
    """Give codes that look alike vectors near each other: entries of the codebook [K, D], turned at random."""
    looks = (entries - entries.mean(0)) / entries.std()
    assert isinstance(network.head, nn.Linear)
    for weight in (network.embedding.weight, network.head.weight):
        turn = torch.randn(looks.shape[1], weight.shape[1]) / math.sqrt(looks.shape[1])
        weight[: network.num_codes] = weight.std() * (looks @ turn)
