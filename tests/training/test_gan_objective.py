import pytest
import torch
from torch import nn

from training.data import Loader
from training.errors import TrainingError
from training.gan import GanObjective, gradient_penalty


def test_the_penalty_of_a_linear_discriminator_is_its_squared_weight_on_both_sides():
    layer = nn.Linear(4, 1, bias=False)
    samples = torch.randn(10, 4, requires_grad=True)
    penalty = gradient_penalty(layer(samples).squeeze(1), samples, count=6)
    assert penalty.item() == pytest.approx(2 * layer.weight.square().sum().item(), rel=1e-5)


def test_the_penalty_weighs_real_and_generated_alike_and_reaches_the_weights():
    scale = torch.tensor(3.0, requires_grad=True)
    samples = torch.tensor([[1.0], [1.0], [2.0]], requires_grad=True)  # two real, one generated
    penalty = gradient_penalty((scale * samples.square()).squeeze(1), samples, count=2)
    assert penalty.item() == pytest.approx(6.0**2 + 12.0**2)  # d/dx of 3 x^2 is 6 x
    penalty.backward()
    assert scale.grad.item() == pytest.approx(2 * 3 * (4 + 16))


@pytest.fixture
def objective(recipe, dataset):
    torch.manual_seed(0)
    return GanObjective(recipe("gan"), dataset, torch.device("cpu"))


def weights(network):
    """All but the biases: those of the discriminator's last layers can cancel in a relativistic loss."""
    return {name: tensor.detach().clone() for name, tensor in network.named_parameters() if tensor.ndim > 1}


def changed(before, network):
    now = weights(network)
    return {name: not torch.equal(tensor, now[name]) for name, tensor in before.items()}


def test_the_penalty_comes_on_every_fourth_step(objective, dataset):
    loader = Loader(dataset.train, 16, seed=0)
    found = ["penalty" in objective.train_step(loader.next(), step) for step in range(9)]
    assert found == [True, False, False, False] * 2 + [True]


def test_gamma_pulls_the_discriminator(recipe, raw_recipe, dataset):
    def penalty_after(gamma):
        raw = raw_recipe("gan")["objective"] | {"gamma": gamma, "penalty_every": 1}
        torch.manual_seed(0)
        objective = GanObjective(recipe("gan", objective=raw), dataset, torch.device("cpu"))
        loader = Loader(dataset.train, 16, seed=0)
        return [objective.train_step(loader.next(), step)["penalty"].item() for step in range(60)][-1]

    assert penalty_after(20.0) < 0.5 * penalty_after(0.0)


def test_each_half_step_moves_its_own_network_alone(objective, dataset):
    batch = Loader(dataset.train, 16, seed=0).next()
    generator, discriminator = objective.networks["generator"], objective.networks["discriminator"]
    before = weights(generator), weights(discriminator)
    objective._discriminator_step(batch, penalise=True)
    assert not any(changed(before[0], generator).values())
    assert all(changed(before[1], discriminator).values())
    before = weights(generator), weights(discriminator)
    objective._generator_step(batch)
    assert all(changed(before[0], generator).values())
    assert not any(changed(before[1], discriminator).values())


def test_metrics_name_what_is_watched(objective, dataset):
    step = objective.train_step(Loader(dataset.train, 16, seed=0).next(), 0)
    assert set(step) == {"d_loss", "d_margin", "g_loss", "penalty"}
    assert set(objective.evaluate()) == {"class_accuracy", "min_class_share", "fd_clf_rough"}
    assert objective.samples().shape == (30, 1, 8, 8)
    assert objective.product() is objective.ema.model


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"base_size": 8}, r"the generator makes pictures of \[1, 16, 16\]"),
        ({"num_classes": 2}, "generator has 2 classes"),
    ],
)
def test_a_generator_that_does_not_fit_the_data_is_refused(recipe, raw_recipe, dataset, config, message):
    model = raw_recipe("gan")["model"]
    model["config"] |= config
    with pytest.raises(TrainingError, match=message):
        GanObjective(recipe("gan", model=model), dataset, torch.device("cpu"))


@pytest.mark.parametrize("config", [{"image_size": 16}, {"num_classes": 2}, {"image_channels": 3}])
def test_a_discriminator_that_does_not_fit_the_data_is_refused(recipe, raw_recipe, dataset, config):
    raw = raw_recipe("gan")["objective"]
    raw["discriminator"] |= config
    with pytest.raises(TrainingError, match=r"objective\.discriminator"):
        GanObjective(recipe("gan", objective=raw), dataset, torch.device("cpu"))


def test_wrong_discriminator_arguments_are_refused_by_name(recipe, raw_recipe, dataset):
    raw = raw_recipe("gan")["objective"] | {"discriminator": {"chanels": [8]}}
    with pytest.raises(TrainingError, match=r"objective\.discriminator.*chanels"):
        GanObjective(recipe("gan", objective=raw), dataset, torch.device("cpu"))


def test_a_missing_judge_is_named(recipe, raw_recipe, dataset, tmp_path):
    raw = raw_recipe("gan")["objective"] | {"judge": str(tmp_path / "nowhere")}
    with pytest.raises(TrainingError, match="nowhere"):
        GanObjective(recipe("gan", objective=raw), dataset, torch.device("cpu"))
