"""What the loop asks of an objective, and what the objectives share."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.data import Batch
from training.ema import Ema
from training.recipe import Recipe


class Objective(Protocol):
    """Networks, their optimisers and the rule that moves them.

    A snapshot of an objective is the state dicts of its networks, its optimisers and its EMA: an objective keeps no
    other state. Noise for training comes from torch's global generator, which the snapshot holds too; noise for
    evaluation comes from a generator of its own, so that evaluating more or less often never changes a run, though it
    may change which of the networks on the way is kept (`training.best`).

    Attributes:
        ema: the averaged network that is evaluated and published.
    """

    ema: Ema

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The networks under training."""
        ...

    @property
    def optimizers(self) -> Mapping[str, Optimizer]:
        """Their optimisers; the loop sets the learning rate."""
        ...

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Update the networks and the EMA once; scalars for metrics.jsonl, each watched for non-finite values."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Cheap measurements of the EMA network, for watching a run."""
        ...

    def product(self) -> nn.Module:
        """The network to publish: the EMA network, with whatever finish it needs."""
        ...

    def samples(self) -> Tensor | str | None:
        """Unpicked pictures of the EMA network, [classes * columns, C, H, W], a class a row; a text; or None."""
        ...


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """The context in which networks run forward: bf16 where that is safe, or float32 throughout."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")


def descend(loss: Tensor, optimizer: Optimizer, clip: float = 0.0) -> None:
    """One step down a loss; `clip` bounds the norm of the whole gradient (Pascanu et al. 2013), 0 leaves it alone."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    if clip:
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    optimizer.step()


def adam(network: nn.Module, recipe: Recipe, weight_decay: float = 0.0) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019); plain Adam (Kingma & Ba 2015) when that is 0."""
    return torch.optim.AdamW(
        network.parameters(), recipe.learning_rate, betas=recipe.objective.betas, weight_decay=weight_decay
    )
