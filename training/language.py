"""The language objective: the cross-entropy of the next token."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.backends import cuda as attention
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.architecture import build
from models.protocols import SequenceModel
from training import fluency
from training.data import Batch
from training.ema import Ema
from training.errors import TrainingError
from training.objective import autocast
from training.objective_recipe import LanguageRecipe
from training.recipe import Recipe
from training.text import TextDataset


class LanguageObjective:
    """AdamW on the mean of -log p(next token | the tokens before it in the window), with a clipped gradient.

    The learning rate is the loop's, lifted onto the floor and led up to over the warm-up.
    """

    def __init__(self, recipe: Recipe, dataset: TextDataset, device: torch.device) -> None:
        """Build the network with fresh weights from torch's global generator, or with those of the data set's origin.

        Raises:
            TrainingError: the architecture is no sequence model, or does not fit the tokens or the windows.
        """
        assert isinstance(recipe.objective, LanguageRecipe)
        self._recipe, self._options, self._dataset, self._device = recipe, recipe.objective, dataset, device
        self._network = build(recipe.model.architecture, recipe.model.config).to(device)
        _check_fit(self._network, dataset)
        if dataset.origin is not None:
            self._network.load_state_dict(dataset.origin.network.state_dict())
        self.networks = {"language": self._network}
        self.optimizers = {"language": _adamw(self._network, recipe, self._options)}
        self.ema = Ema(self._network, recipe.ema_decay)

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One step on the mean loss of all positions, in nats a token."""
        optimizer = self.optimizers["language"]
        for group in optimizer.param_groups:
            group["lr"] = self._learning_rate(group["lr"], step)
        with autocast(self._recipe, self._device), plain_attention(self._device):
            logits = self._network(batch.samples)
        loss = F.cross_entropy(logits.float().flatten(0, 1), batch.labels.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        norm = nn.utils.clip_grad_norm_(self._network.parameters(), self._options.clip)
        optimizer.step()
        self.ema.update(self._network, step)
        return {"loss": loss.detach(), "gradient_norm": norm.detach()}

    def _learning_rate(self, rate: float, step: int) -> float:
        """The loop's rate of this step, which falls to zero, with floor and warm-up."""
        floor = self._options.floor
        lifted = floor * self._recipe.learning_rate + (1 - floor) * rate
        return lifted * min(1.0, (step + 1) / max(1, self._options.warmup))

    def evaluate(self) -> dict[str, float]:
        """Bits per byte on the validation works, which the training never sees and the card's metrics do not use."""
        works = self._dataset.corpus.validation
        if not works:
            return {}
        return {"validation_bits_per_byte": fluency.bits_per_byte(self.ema.model, self._dataset.tokenizer, works)}

    def product(self) -> nn.Module:
        """The EMA network."""
        return self.ema.model

    def samples(self) -> str:
        """An unpicked text."""
        return fluency.PROMPT + fluency.generate(self.ema.model, self._dataset.tokenizer, [0])[0]


@contextmanager
def plain_attention(device: torch.device) -> Iterator[None]:
    """On a CPU, attention as two products and a softmax, in the dtype of its input.

    It keeps all weights for the way back, which is half the time of the fused kernel there for windows of 512.
    """
    if device.type != "cpu":
        yield
        return
    before = attention.fp16_bf16_reduction_math_sdp_allowed()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    attention.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        attention.allow_fp16_bf16_reduction_math_sdp(before)


def _check_fit(network: nn.Module, dataset: TextDataset) -> None:
    if not isinstance(network, SequenceModel):
        raise TrainingError(f"model.architecture: {type(network).__name__} is not a sequence model")
    size = dataset.tokenizer.get_vocab_size()
    if network.vocab_size != size:
        raise TrainingError(f"model.config.vocab_size is {network.vocab_size}, data.vocab_size {size}")
    if network.max_length < dataset.train.length:
        raise TrainingError(
            f"model.config.max_length is {network.max_length}, less than data.window = {dataset.train.length}"
        )


def _adamw(network: nn.Module, recipe: Recipe, options: LanguageRecipe) -> torch.optim.Optimizer:
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, recipe.learning_rate, betas=options.betas)
