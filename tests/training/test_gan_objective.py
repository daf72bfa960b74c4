import pytest
import torch

from training import gan
from training.data import Loader
from training.errors import TrainingError
from training.gan import GanObjective


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


def test_what_is_published_is_what_the_watching_judge_liked_best(objective, monkeypatch):
    def look(distance):
        monkeypatch.setattr(objective._watch.__class__, "look", lambda *_: {"fd_clf_rough": distance})
        objective.evaluate()

    look(7.0)
    liked = weights(objective.product())
    with torch.no_grad():
        for tensor in objective.ema.model.parameters():
            tensor += 1
    look(8.0)
    assert not any(changed(liked, objective.product()).values())
    look(6.0)
    assert all(changed(liked, objective.product()).values())


@pytest.mark.parametrize("keep", ["best", "last"])
def test_before_any_look_the_last_network_is_published(recipe, raw_recipe, dataset, keep):
    raw = raw_recipe("gan")["objective"] | {"keep": keep}
    objective = GanObjective(recipe("gan", objective=raw), dataset, torch.device("cpu"))
    assert objective.product() is objective.ema.model


def test_the_last_network_is_published_when_the_recipe_says_so(recipe, raw_recipe, dataset):
    raw = raw_recipe("gan")["objective"] | {"keep": "last"}
    objective = GanObjective(recipe("gan", objective=raw), dataset, torch.device("cpu"))
    objective.evaluate()
    assert objective.product() is objective.ema.model


@pytest.mark.parametrize("loss", ["non-saturating", "hinge", "wasserstein", "relativistic"])
@pytest.mark.parametrize("penalty", ["none", "r1", "r1+r2", "interpolated"])
def test_every_loss_and_penalty_teaches_both_players(recipe, raw_recipe, dataset, loss, penalty):
    raw = raw_recipe("gan")["objective"] | {"loss": loss, "penalty": penalty}
    objective = GanObjective(recipe("gan", objective=raw), dataset, torch.device("cpu"))
    before = [weights(network) for network in (objective._generator, objective._discriminator)]
    metrics = objective.train_step(Loader(dataset.train, 16, seed=0).next(), 0)
    assert ("penalty" in metrics) == (penalty != "none")
    for then, network in zip(before, (objective._generator, objective._discriminator), strict=True):
        assert all(changed(then, network).values())


def test_both_players_see_changed_pictures_unless_the_recipe_says_otherwise(recipe, raw_recipe, dataset, monkeypatch):
    seen = []
    monkeypatch.setattr(gan, "mirrored", lambda samples, share: seen.append(("mirrored", share)) or samples)
    monkeypatch.setattr(gan, "shifted", lambda samples, *how: seen.append(("shifted", *how)) or samples)
    raw = raw_recipe("gan")["objective"]
    batch = Loader(dataset.train, 16, seed=0).next()
    GanObjective(recipe("gan", objective=raw), dataset, torch.device("cpu")).train_step(batch, 1)
    assert seen == [("mirrored", 0.25), ("shifted", 1, 0.5)] * 3  # both together, then real, then generated ones
    seen.clear()
    raw["augment"] = {"mirror": 0.0, "shift": 0, "shifted": 0.0}
    GanObjective(recipe("gan", objective=raw), dataset, torch.device("cpu")).train_step(batch, 1)
    assert seen == []


def test_a_fully_connected_pair_is_trained_by_the_same_objective(recipe, raw_recipe, dataset):
    raw, shape = raw_recipe("gan"), [1, 8, 8]
    raw["model"] = {"architecture": "mlp-gan", "config": {"num_classes": 3, "widths": [16], "image_shape": shape}}
    raw["objective"]["discriminator"] = {"kind": "mlp", "num_classes": 3, "widths": [16], "image_shape": shape}
    objective = GanObjective(recipe("gan", **raw), dataset, torch.device("cpu"))
    objective.train_step(Loader(dataset.train, 16, seed=0).next(), 0)
    assert objective.samples().shape == (30, 1, 8, 8)


def test_a_style_based_generator_is_settled_before_it_is_looked_at(recipe, raw_recipe, dataset):
    raw = raw_recipe("gan")
    config = {"latent_dim": 4, "num_classes": 3, "style_dim": 8, "channels": [8, 8], "base_size": 4}
    raw["model"] = {"architecture": "style-gan", "config": config}
    objective = GanObjective(recipe("gan", **raw), dataset, torch.device("cpu"))
    for step in range(3):
        objective.train_step(Loader(dataset.train, 16, seed=0).next(), step)
    assert objective.ema.model.centre.abs().sum() == 0
    objective.evaluate()
    assert all(row.abs().sum() > 0 for row in objective.product().centre)


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
    raw = raw_recipe("gan")["objective"] | {"discriminator": {"kind": "conv", "chanels": [8]}}
    with pytest.raises(TrainingError, match=r"objective\.discriminator.*chanels"):
        GanObjective(recipe("gan", objective=raw), dataset, torch.device("cpu"))


@pytest.mark.parametrize("kind", [None, "conf", 7])
def test_an_unknown_kind_of_discriminator_is_refused(recipe, raw_recipe, dataset, kind):
    raw = raw_recipe("gan")["objective"]
    raw["discriminator"]["kind"] = kind
    with pytest.raises(TrainingError, match=r"discriminator\.kind must be one of (\w+, )*conv, info, mlp"):
        GanObjective(recipe("gan", objective=raw), dataset, torch.device("cpu"))


@pytest.mark.parametrize("key", ["judge", "watch"])
def test_a_missing_judge_is_named(recipe, raw_recipe, dataset, tmp_path, key):
    raw = raw_recipe("gan")["objective"] | {key: str(tmp_path / "nowhere")}
    with pytest.raises(TrainingError, match="nowhere"):
        GanObjective(recipe("gan", objective=raw), dataset, torch.device("cpu"))


def test_the_judge_that_measures_may_not_pick(recipe, raw_recipe, dataset):
    raw = raw_recipe("gan")["objective"]
    raw["watch"] = raw["judge"]
    with pytest.raises(TrainingError, match=r"objective\.watch is objective\.judge"):
        GanObjective(recipe("gan", objective=raw), dataset, torch.device("cpu"))


CODES = {"codes": 2, "latent_dim": 6, "num_classes": 3, "embedding_dim": 4, "channels": [8, 8], "base_size": 4}
READER = {"kind": "info", "categories": 3, "codes": 2, "hidden": 8, "channels": [8, 8], "image_size": 8}


def informed(raw_recipe, **changes):
    """Recipe keys of an InfoGAN."""
    raw = raw_recipe("gan")["objective"]
    raw |= {"information": {"categories": 1.0, "codes": 0.5}, "discriminator": dict(READER), **changes}
    return {"model": {"architecture": "info-gan", "config": dict(CODES)}, "objective": raw}


def test_an_info_gan_learns_to_show_what_it_is_told(recipe, raw_recipe, dataset):
    torch.manual_seed(0)
    objective = GanObjective(recipe("gan", **informed(raw_recipe)), dataset, torch.device("cpu"))
    loader = Loader(dataset.train, 16, seed=0)
    found = [objective.train_step(loader.next(), step) for step in range(100)]
    assert found[0]["category_nats"] < 0.1
    assert found[-1]["category_nats"] > 0.3  # of log 3
    assert found[-1]["code_nats"] > found[0]["code_nats"]


@pytest.mark.parametrize("information", [{"categories": 1.0, "codes": 0.0}, {"categories": 0.0, "codes": 1.0}])
def test_each_bound_has_its_weight(recipe, raw_recipe, dataset, information):
    keys = informed(raw_recipe, information=information)
    objective = GanObjective(recipe("gan", **keys), dataset, torch.device("cpu"))
    objective._discriminator_step(Loader(dataset.train, 16, seed=0).next(), penalise=False)
    gradient = objective._discriminator.to_reading.weight.grad
    assert (gradient[:3].abs().sum() > 0) == (information["categories"] > 0)
    assert (gradient[3:].abs().sum() > 0) == (information["codes"] > 0)


def test_groups_are_never_half_real(recipe, raw_recipe, dataset):
    keys = {**informed(raw_recipe), "batch_size": 12}
    with pytest.raises(TrainingError, match=r'batch_size 12: discriminator\.kind "info" takes a multiple of 8'):
        GanObjective(recipe("gan", **keys), dataset, torch.device("cpu"))


def test_an_info_gan_is_never_told_the_classes(recipe, raw_recipe, dataset):
    """The same pictures with other labels: the same networks."""
    found = []
    for shift in (0, 1):
        torch.manual_seed(0)
        objective = GanObjective(recipe("gan", **informed(raw_recipe)), dataset, torch.device("cpu"))
        batch = Loader(dataset.train, 16, seed=0).next()
        objective.train_step(batch._replace(labels=(batch.labels + shift) % 3), 0)
        found.append({**weights(objective._generator), **weights(objective._discriminator)})
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"discriminator": READER | {"codes": 3}},
            "3 categories and 2 codes, objective.discriminator reads .* 3 codes",
        ),
        ({"discriminator": READER | {"categories": 2}}, "reads 2 categories and 2 codes"),
        ({"information": {"categories": 0.0, "codes": 0.0}}, "objective.information: above 0"),
    ],
)
def test_half_an_info_gan_is_refused(recipe, raw_recipe, dataset, change, message):
    with pytest.raises(TrainingError, match=message):
        GanObjective(recipe("gan", **informed(raw_recipe, **change)), dataset, torch.device("cpu"))


def test_a_reader_without_a_generator_that_tells_is_refused(recipe, raw_recipe, dataset):
    keys = informed(raw_recipe)
    with pytest.raises(TrainingError, match="the generator has no categories or codes"):
        GanObjective(recipe("gan", objective=keys["objective"]), dataset, torch.device("cpu"))
    raw = raw_recipe("gan")["objective"] | {"information": {"categories": 1.0, "codes": 0.0}}
    with pytest.raises(TrainingError, match="0 for all others"):
        GanObjective(recipe("gan", objective=raw), dataset, torch.device("cpu"))


def test_the_gradient_of_each_player_is_clipped(recipe, raw_recipe, dataset):
    for clip in (0.0, 1e-5):
        torch.manual_seed(0)
        raw = raw_recipe("gan")["objective"] | {"clip": clip}
        objective = GanObjective(recipe("gan", objective=raw), dataset, torch.device("cpu"))
        objective.train_step(Loader(dataset.train, 16, seed=0).next(), 0)
        for network in (objective._generator, objective._discriminator):
            norm = torch.nn.utils.get_total_norm([p.grad for p in network.parameters()])
            assert norm <= 1.001 * clip if clip else norm > 1e-4


@pytest.mark.parametrize("kind", ["plain", "info"])
def test_looking_ahead_changes_the_generator_s_step_alone(recipe, raw_recipe, dataset, kind):
    found = []
    for unrolled in (0, 2):
        keys = informed(raw_recipe) if kind == "info" else {"objective": raw_recipe("gan")["objective"]}
        keys["objective"] |= {"unrolled": unrolled}
        torch.manual_seed(0)
        objective = GanObjective(recipe("gan", **keys, precision="fp32"), dataset, torch.device("cpu"))
        objective.train_step(Loader(dataset.train, 16, seed=0).next(), 0)
        found.append(objective)
    plain, ahead = found
    assert not any(changed(weights(plain._discriminator), ahead._discriminator).values())
    assert all(changed(weights(plain._generator), ahead._generator).values())
