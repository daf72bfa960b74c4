"""The audio objective: the cross-entropy of the next sample, given its own past and the transcript."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.architecture import build
from models.wavenet import WaveNet
from training import hearing, spectrum
from training.data import Batch
from training.ema import Ema
from training.errors import TrainingError
from training.objective import autocast
from training.objective_recipe import AudioRecipe
from training.recipe import Recipe
from training.speech import Clip, Piece, SpeechDataset

LEFT_OUT = -100  # of a target: it is no part of the loss


class AudioObjective:
    """AdamW on the mean of -log p(sample | samples before it, transcript), with a clipped gradient.

    Samples whose past a window has cut off are heard, but not counted. Gradients through millions of samples hardly
    say when which character is spoken, so the transcript is taught by a second term as well: a line through each
    frame's vector should tell how loud each band of the frame is.
    """

    def __init__(self, recipe: Recipe, dataset: SpeechDataset, device: torch.device) -> None:
        """Build the networks with fresh weights from torch's global generator.

        Raises:
            TrainingError: the architecture is no WaveNet, or does not fit the clips.
        """
        assert isinstance(recipe.objective, AudioRecipe)
        self._recipe, self._options, self._dataset, self._device = recipe, recipe.objective, dataset, device
        network = build(recipe.model.architecture, recipe.model.config)
        self._network = check_fit(network, dataset).to(device)
        self._ear = nn.Linear(self._network.tell.in_features, spectrum.BANDS).to(device)
        self._level, self._spread = _statistics(dataset.train.clips)
        self.networks = {"audio": self._network, "ear": self._ear}
        self.optimizers = {name: _adamw(network, recipe, self._options) for name, network in self.networks.items()}
        self.ema = Ema(self._network, recipe.ema_decay)

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One step on the mean loss of all samples that count, in bits, and of all frames of their clips."""
        self._warm_up(step)
        pieces = [piece for first in batch.samples.tolist() for piece in self._dataset.train.pieces(first)]
        said = {clip: self._said(clip) for clip in dict.fromkeys(piece.clip for piece in pieces)}
        nats, error = self._nats(pieces, said), self._error(said)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        (nats + self._options.ear_weight * error).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        norm = nn.utils.clip_grad_norm_(self._network.parameters(), self._options.clip)
        for optimizer in self.optimizers.values():
            optimizer.step()
        self.ema.update(self._network, step)
        return {"loss": nats.detach() / hearing.BIT, "ear": error.detach(), "gradient_norm": norm.detach()}

    def _said(self, clip: Clip) -> Tensor:
        """What is said in each frame of a clip, [frames, features]."""
        frames: Tensor = self._network.transcript(clip.characters.to(self._device), clip.frames)
        return frames

    def _nats(self, pieces: list[Piece], said: dict[Clip, Tensor]) -> Tensor:
        """Mean loss of the samples that count."""
        frames = torch.cat([said[piece.clip][piece.first : piece.first + piece.frames] for piece in pieces])
        inputs = torch.cat([piece.clip.inputs[piece.samples] for piece in pieces]).to(self._device)
        targets = torch.cat([self._counted(piece) for piece in pieces]).to(self._device)
        with autocast(self._recipe, self._device):
            logits = self._network(inputs, [piece.frames * piece.clip.hop for piece in pieces], frames)
        losses = F.cross_entropy(logits.float(), targets, ignore_index=LEFT_OUT, reduction="sum")
        return losses / (targets != LEFT_OUT).sum().clamp_min(1)

    def _counted(self, piece: Piece) -> Tensor:
        """The targets of a piece, without those of which it does not hold the whole past."""
        targets = piece.clip.targets[piece.samples]
        if piece.first == 0:
            return targets
        unheard = min(len(targets), self._network.receptive_field)
        return F.pad(targets[unheard:], (unheard, 0), value=LEFT_OUT)

    def _error(self, said: dict[Clip, Tensor]) -> Tensor:
        """Mean squared error of the bands that the transcripts foretell, in variances of the bands."""
        heard = self._ear(torch.cat(list(said.values())))
        bands = torch.cat([clip.bands for clip in said]).to(self._device)
        return F.mse_loss(heard, (bands - self._level.to(self._device)) / self._spread.to(self._device))

    def _warm_up(self, step: int) -> None:
        """Lead up to the loop's learning rate."""
        share = min(1.0, (step + 1) / max(1, self._options.warmup))
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] *= share

    def evaluate(self) -> dict[str, float]:
        """Bits a sample on the validation clips, which the training never sees and the card's metrics do not use."""
        network = check_fit(self.ema.model, self._dataset)
        return {"validation_bits_per_sample": hearing.bits_per_sample(network, self._dataset.validation)}

    def product(self) -> nn.Module:
        """The EMA network."""
        return self.ema.model

    def samples(self) -> None:
        """Nothing while training: speech is made sample by sample, which takes longer than an evaluation."""


def check_fit(network: nn.Module, dataset: SpeechDataset) -> WaveNet:
    """The network as what it must be.

    Raises:
        TrainingError: it is no WaveNet, or was made for other clips.
    """
    if not isinstance(network, WaveNet):
        raise TrainingError(f"model.architecture: {type(network).__name__} is not a network for speech")
    recipe, characters = dataset.recipe, network.transcript.embedding.num_embeddings - 1
    wanted = {
        "vocab_size": (network.vocab_size, 256),
        "hop": (network.hop, recipe.hop),
        "characters": (characters, len(recipe.characters)),
    }
    for name, (found, needed) in wanted.items():
        if found != needed:
            raise TrainingError(f"model.config.{name} is {found}, the clips need {needed}")
    return network


def _statistics(clips: tuple[Clip, ...]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each band over all frames of clips."""
    bands = torch.cat([clip.bands for clip in clips])
    return bands.mean(0), bands.std(0)


def _adamw(network: nn.Module, recipe: Recipe, options: AudioRecipe) -> torch.optim.Optimizer:
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, recipe.learning_rate, betas=options.betas)
