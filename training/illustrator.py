"""Draws pictures for captions with a text-to-image network and the decoder of its codes, as the service does.

Knows tokens, codes and pictures; measures nothing.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import checkpoint
from models.checkpoint import Checkpoint
from models.errors import CheckpointError
from models.text_to_image import TextToImage
from models.vq import VQVAE
from training import reconstruction
from training.captioned import CaptionedDataset
from training.errors import TrainingError
from training.words import padding_of

ROWS = 100  # pictures that are drawn at once


@dataclass(frozen=True)
class Manner:
    """How codes are drawn.

    Attributes:
        guidance: scale of the caption's part.
        temperature: above 0.
    """

    guidance: float
    temperature: float


def manners(guidance: Sequence[float], temperature: Sequence[float]) -> list[Manner]:
    """Every one of these scales at every one of these temperatures."""
    return [Manner(*pair) for pair in itertools.product(guidance, temperature)]


@dataclass(frozen=True)
class Illustrator:
    """A network and the autoencoder whose codes it writes."""

    network: TextToImage
    decoder: VQVAE

    @property
    def codes(self) -> int:
        """Codes of a picture."""
        height, width = self.decoder.latent_shape
        return height * width

    def draw(self, captions: Tensor, manner: Manner, seed: int) -> Tensor:
        """Unpicked pictures of captions [N, prompt tokens], drawn in a manner: [N, C, H, W] in [-1, 1]."""
        return self.pictures(self.write(captions, manner, seed))

    def draw_best(self, captions: Tensor, manner: Manner, seed: int, candidates: int) -> Tensor:
        """The same, each the best of so many: the one that its caption makes likelier than any of the others."""
        told = captions.repeat_interleave(candidates, 0)
        codes = self.write(told, manner, seed)
        scores = self.likelihood(told, codes) - self.likelihood(torch.full_like(told, self.network.padding), codes)
        best = scores.view(-1, candidates).argmax(1) + torch.arange(len(captions)) * candidates
        return self.pictures(codes[best])

    @torch.no_grad()
    def write(self, captions: Tensor, manner: Manner, seed: int) -> Tensor:
        """Codes behind captions [N, prompt tokens], by noise of their own: [N, codes]."""
        generator = torch.Generator().manual_seed(seed)
        device = self.network.embedding.weight.device
        parts = [self._write(part.to(device), manner, generator) for part in torch.split(captions, ROWS)]
        return torch.cat(parts).cpu()

    @torch.no_grad()
    def pictures(self, codes: Tensor) -> Tensor:
        """Pictures of codes [N, codes]."""
        square = codes.view(-1, *self.decoder.latent_shape).float()
        return torch.cat([reconstruction.decode(self.decoder, part) for part in torch.split(square, ROWS)])

    @torch.no_grad()
    def likelihood(self, captions: Tensor, codes: Tensor) -> Tensor:
        """Log p(codes | caption) without guidance, in nats: captions [N, prompt tokens], codes [N, codes] -> [N]."""
        device = self.network.embedding.weight.device
        found = []
        for words, written in zip(torch.split(captions, ROWS), torch.split(codes, ROWS), strict=True):
            logits = predict(self.network, words.to(device), written.to(device)).double().log_softmax(-1)
            found.append(logits.gather(-1, written.to(device)[..., None]).sum((1, 2)).cpu())
        return torch.cat(found)

    def _write(self, captions: Tensor, manner: Manner, generator: torch.Generator) -> Tensor:
        """Codes behind captions [B, T], [B, codes]."""
        count, length = captions.shape
        rows, state = range(count), self.network.init_state(count)
        self.network.condition(torch.full((count, 1), manner.guidance), [1] * count, rows, state)
        logits = self.network.prefill(captions, [0] * count, [length] * count, rows, state)
        codes = [_sample(logits / manner.temperature, generator)]
        for place in range(length, length + self.codes - 1):
            positions = torch.full((count,), place, device=captions.device)
            logits = self.network.step(codes[-1], positions, place + 1, state)
            codes.append(_sample(logits / manner.temperature, generator))
        return torch.stack(codes, 1)


def predict(network: TextToImage, captions: Tensor, codes: Tensor) -> Tensor:
    """Logits of every code without guidance: captions [N, T], codes [N, C] -> [N, C, K]."""
    logits: Tensor = network(torch.cat([captions, codes[:, :-1]], 1))
    return logits[:, captions.shape[1] - 1 :]


def _sample(logits: Tensor, generator: torch.Generator) -> Tensor:
    """A token for each row [B, V], from one uniform number each."""
    sums = logits.double().softmax(1).cumsum(1)
    chosen = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64).to(logits.device) * sums[:, -1:]
    return torch.searchsorted(sums, chosen, right=True).squeeze(1)


def load_decoder(folder: Path, dataset: CaptionedDataset) -> Checkpoint:
    """The discrete autoencoder of a weights folder.

    Raises:
        TrainingError: there is none, it is something else, or it was trained on other data.
    """
    try:
        loaded = checkpoint.load(folder)
    except CheckpointError as error:
        raise TrainingError(f"the decoder can't be loaded: {error} (a vq recipe trains one)") from error
    if not isinstance(loaded.model, VQVAE):
        raise TrainingError(f"{folder}: {loaded.config.architecture} is not a discrete autoencoder")
    if _splits(loaded.config.card.get("training_data", {})) != _splits(dataset.card()):
        raise TrainingError(f"{folder}: was trained on other data, or on another split of them")
    return loaded


def _splits(card: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says of its data, but how often each emoji is dealt: an autoencoder reads no captions."""
    return {name: value for name, value in card.items() if name != "emoji_captions"}


def decoder_of(loaded: Checkpoint) -> VQVAE:
    """The network of what `load_decoder` gives."""
    assert isinstance(loaded.model, VQVAE)
    return loaded.model


def check_fit(network: TextToImage, decoder: VQVAE, dataset: CaptionedDataset) -> None:
    """Refuse a network whose tokens or places are not those of the codes and the captions.

    Raises:
        TrainingError: the message gives both sides.
    """
    recipe, places = dataset.recipe, decoder.latent_shape[0] * decoder.latent_shape[1]
    wanted = {
        "num_codes": (network.num_codes, decoder.num_codes),
        "num_codes and data.first_word": (network.num_codes, padding_of(dataset.tokenizer)),
        "vocab_size": (network.vocab_size, recipe.first_word + dataset.tokenizer.get_vocab_size()),
        "prompt_tokens": (network.prompt_tokens, recipe.caption_length),
        "max_length": (network.max_length, recipe.caption_length + places),
    }
    for name, (own, needed) in wanted.items():
        if own != needed:
            raise TrainingError(f"model.config.{name}: {own} given, {needed} needed by the decoder and the captions")
