import pytest
import torch
from torch import nn

from training.errors import TrainingError
from training.guards import CollapseGuard, RollbackGuard, non_finite, non_finite_weights
from training.recipe import GuardRecipe

OPTIONS = GuardRecipe(max_rollbacks=2, min_class_share=0.2, collapse_patience=2)


def test_non_finite_metrics_are_named():
    values = {"loss": 1.0, "penalty": float("inf"), "kl": float("nan")}
    assert non_finite(values) == ["penalty", "kl"]


def test_non_finite_weights_are_named():
    network = nn.BatchNorm1d(2)
    assert non_finite_weights({"d": network}) == []
    network.running_var[1] = torch.inf
    assert non_finite_weights({"d": network}) == ["d.running_var"]


def test_roll_backs_are_bounded():
    guard = RollbackGuard(OPTIONS)
    guard.permit(10, ["loss"])
    guard.permit(10, ["loss"])
    with pytest.raises(TrainingError, match=r"step 11: g_loss not finite, after 2 roll-backs.*learning_rate"):
        guard.permit(11, ["g_loss"])
    assert guard.count == 2


def feed(shares):
    guard = CollapseGuard(OPTIONS)
    for step, share in enumerate(shares):
        guard.check(step, {"min_class_share": share})


def test_collapse_ends_a_run_after_its_patience():
    feed([0.5, 0.1, 0.3, 0.1])
    with pytest.raises(TrainingError, match="step 2: collapsed"):
        feed([0.5, 0.1, 0.0])


def test_the_start_of_a_run_is_not_a_collapse():
    feed([0.0] * 10)


def test_an_objective_without_classes_is_passed_over():
    guard = CollapseGuard(OPTIONS)
    guard.armed = True
    for step in range(5):
        guard.check(step, {"accuracy": 0.1})
    assert guard.strikes == 0
