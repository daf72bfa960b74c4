import pytest
import torch
import torch.nn.functional as F

from models import checkpoint
from training.data import Loader
from training.energy import energy_distance
from training.errors import TrainingError
from training.judge import ARCHITECTURE, JUDGES
from training.vae import VaeObjective


@pytest.fixture
def objective(recipe, dataset):
    torch.manual_seed(0)
    return VaeObjective(recipe("vae", precision="fp32"), dataset, torch.device("cpu"))


def test_the_weight_of_kl_rises_to_one(objective, dataset):
    loader = Loader(dataset.train, 16, seed=0)
    for step in range(8):
        found = objective.train_step(loader.next(), step)
        weight = min(1.0, (step + 1) / 5)
        assert found["loss"].item() == pytest.approx((found["nll"] + weight * found["kl"]).item(), rel=1e-5)


def test_the_weight_of_kl_stops_where_the_recipe_says(recipe, raw_recipe, dataset):
    raw = raw_recipe("vae")["objective"] | {"kl_weight": 0.5}
    objective = VaeObjective(recipe("vae", objective=raw, precision="fp32"), dataset, torch.device("cpu"))
    found = objective.train_step(Loader(dataset.train, 16, seed=0).next(), 100)
    assert found["loss"].item() == pytest.approx((found["nll"] + 0.5 * found["kl"]).item(), rel=1e-5)


def test_the_bound_improves(objective, dataset):
    loader = Loader(dataset.train, 16, seed=0)
    before = objective.evaluate()["negative_elbo"]
    for step in range(60):
        objective.train_step(loader.next(), step)
    assert objective.evaluate()["negative_elbo"] < before - 2


@pytest.fixture
def guide(judge_folder, tmp_path):
    """A folder with another judge than the one that measures."""
    loaded = checkpoint.load(judge_folder, JUDGES)
    for layer in (loaded.model.to_features, loaded.model.to_logits):
        layer.weight.mul_(30)  # so that it has opinions, if arbitrary ones
    checkpoint.save(tmp_path / "guide", loaded.model, architecture=ARCHITECTURE, config=loaded.config.config)
    return str(tmp_path / "guide")


@pytest.fixture
def guided(recipe, raw_recipe, dataset, guide):
    """An objective with a guide."""

    def make(**changes):
        raw = raw_recipe("vae")["objective"] | {"guide": guide, **changes}
        torch.manual_seed(0)
        return VaeObjective(recipe("vae", objective=raw, precision="fp32"), dataset, torch.device("cpu"))

    return make


def test_guidance_comes_on_every_third_step_from_the_second_on_with_its_weight(guided, dataset):
    objective, loader = guided(guide_weight=7.0), Loader(dataset.train, 16, seed=0)
    found = [objective.train_step(loader.next(), step) for step in range(7)]
    assert ["guidance" in metrics for metrics in found] == [False, False, False, True, False, False, True]
    for step in (3, 6):
        expected = found[step]["nll"] + min(1.0, (step + 1) / 5) * found[step]["kl"] + 7 * found[step]["guidance"]
        assert found[step]["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_guidance_is_the_cross_entropy_and_the_distance_of_pictures_from_the_prior(guided, dataset):
    objective, batch = guided(), dataset.train.batch(torch.arange(12))
    torch.manual_seed(1)
    found = objective._guidance(batch, 3)
    torch.manual_seed(1)
    pictures = objective.networks["vae"].decode(torch.randn(12, 4), batch.labels)
    distance = energy_distance(objective._guide.features(pictures), objective._guide.features(batch.samples))
    expected = F.cross_entropy(objective._guide(pictures), batch.labels) + distance
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


def test_guidance_brings_pictures_nearer_to_the_data_and_leaves_the_guide_alone(guided, dataset):
    def guidance_after(weight):
        objective, loader = guided(guide_weight=weight, guide_every=1), Loader(dataset.train, 16, seed=0)
        before = [tensor.clone() for tensor in objective._guide.state_dict().values()]
        found = [objective.train_step(loader.next(), step) for step in range(60)]
        assert all(torch.equal(*pair) for pair in zip(before, objective._guide.state_dict().values(), strict=True))
        return sum(metrics["guidance"].item() for metrics in found[-10:]) / 10

    assert guidance_after(100.0) < guidance_after(0.0) / 2


def test_the_judge_may_not_be_the_guide(guided, judge_folder):
    with pytest.raises(TrainingError, match=r"objective\.guide is objective\.judge"):
        guided(guide=str(judge_folder))


def test_a_missing_guide_is_named(guided, tmp_path):
    with pytest.raises(TrainingError, match="nowhere"):
        guided(guide=str(tmp_path / "nowhere"))


def with_flow(raw_recipe):
    model = raw_recipe("vae")["model"]
    model["config"] |= {"flow_layers": 2, "flow_width": 8}
    return model


def test_the_flow_learns_with_the_rest(recipe, raw_recipe, dataset):
    objective = VaeObjective(recipe("vae", model=with_flow(raw_recipe)), dataset, torch.device("cpu"))
    loader = Loader(dataset.train, 16, seed=0)
    for step in range(5):
        objective.train_step(loader.next(), step)
    assert all(coupling.out.weight.any() for coupling in objective.ema.model.prior.couplings)


def test_a_guided_run_with_a_flow_resumes_as_if_it_had_not_stopped(make_run, recipe, raw_recipe, guide):
    raw = raw_recipe("vae")["objective"] | {"guide": guide}
    options = recipe("vae", model=with_flow(raw_recipe), objective=raw)

    def weights(*stops):
        for i, last in enumerate(stops):
            run = make_run(options, f"run{len(stops)}")
            run.resume() if i else run.start()
            run.train(lambda run=run, last=last: run.progress.step >= last, lambda progress, values: None)
        return {**run.objective.networks["vae"].state_dict(), "ema": run.objective.ema.model.to_posterior.weight}

    whole, parts = weights(20), weights(10, 20)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_finish_is_measured_but_not_trained(recipe, raw_recipe, dataset):
    def trained(**finish):
        model = raw_recipe("vae")["model"]
        model["config"] |= finish
        torch.manual_seed(0)
        objective, loader = (
            VaeObjective(recipe("vae", model=model), dataset, torch.device("cpu")),
            Loader(dataset.train, 16, 0),
        )
        for step in range(5):
            objective.train_step(loader.next(), step)
        return objective.networks["vae"].state_dict(), objective.evaluate()["negative_elbo"]

    (plain, bound), (finished, other) = trained(), trained(sharpness=0.5, black_level=0.1)
    assert all(torch.equal(plain[name], finished[name]) for name in plain)
    assert other > bound + 0.1


def test_metrics_name_what_is_watched(objective):
    assert set(objective.evaluate()) == {"negative_elbo", "class_accuracy", "min_class_share", "fd_clf_rough"}
    assert objective.samples().shape == (30, 1, 8, 8)
    assert objective.product() is objective.ema.model


def test_a_decoder_that_does_not_fit_the_data_is_refused(recipe, raw_recipe, dataset):
    model = raw_recipe("vae")["model"]
    model["config"] |= {"base_size": 8}
    with pytest.raises(TrainingError, match=r"the decoder makes pictures of \[1, 16, 16\], the data are \[1, 8, 8\]"):
        VaeObjective(recipe("vae", model=model), dataset, torch.device("cpu"))


def test_an_architecture_without_a_posterior_is_refused(recipe, raw_recipe, dataset):
    with pytest.raises(TrainingError, match="'conv-gan' is not a variational autoencoder"):
        VaeObjective(recipe("vae", model=raw_recipe("gan")["model"]), dataset, torch.device("cpu"))
