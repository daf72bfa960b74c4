"""What stops a run from going on when it has gone wrong: non-finite numbers, and collapse to few classes."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from training.errors import TrainingError
from training.recipe import GuardRecipe


def non_finite(values: Mapping[str, float]) -> list[str]:
    """Names of the metrics that are infinite or not a number."""
    return [name for name, value in values.items() if not math.isfinite(value)]


def non_finite_weights(networks: Mapping[str, nn.Module]) -> list[str]:
    """Names of the tensors that hold an infinite value or not-a-number; such weights must not reach a snapshot."""
    return [
        f"{name}.{key}"
        for name, network in networks.items()
        for key, tensor in network.state_dict().items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]


class RollbackGuard:
    """Counts the roll-backs of a run and refuses one too many."""

    def __init__(self, options: GuardRecipe) -> None:
        """Start at none."""
        self.count = 0
        self._limit = options.max_rollbacks

    def permit(self, step: int, names: list[str]) -> None:
        """Note one more roll-back, because of these names at this step.

        Raises:
            TrainingError: the run has used up its roll-backs.
        """
        if self.count >= self._limit:
            raise TrainingError(
                f"step {step}: {', '.join(names[:3])} not finite, after {self.count} roll-backs "
                f"(guards.max_rollbacks); lower learning_rate or use precision = 'fp32'"
            )
        self.count += 1


class CollapseGuard:
    """Stops a run whose pictures have fallen into few classes.

    At each evaluation the judge says which classes it sees; `min_class_share` is the rarest class's share of what it
    would be if all were seen equally often. `collapse_patience` evaluations in a row below the bound end the run; the
    first evaluations, before the generator has ever been above it, do not count.
    """

    def __init__(self, options: GuardRecipe) -> None:
        """Start with a generator that has not yet learnt all classes."""
        self.armed = False
        self.strikes = 0
        self._options = options

    def check(self, step: int, metrics: Mapping[str, float]) -> None:
        """Look at an evaluation; one without `min_class_share` is passed over.

        Raises:
            TrainingError: the pictures have been collapsed for too long.
        """
        share = metrics.get("min_class_share")
        if share is None:
            return
        if share >= self._options.min_class_share:
            self.armed, self.strikes = True, 0
        elif self.armed:
            self.strikes += 1
        if self.strikes >= self._options.collapse_patience:
            raise TrainingError(
                f"step {step}: collapsed: for {self.strikes} evaluations in a row the rarest class has been at "
                f"{share:.0%} of its share or near it (guards.min_class_share = {self._options.min_class_share})"
            )
