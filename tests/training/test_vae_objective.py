import pytest
import torch

from models import checkpoint
from training.data import Loader
from training.errors import TrainingError
from training.judge import JUDGES
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


def test_the_bound_improves(objective, dataset):
    loader = Loader(dataset.train, 16, seed=0)
    before = objective.evaluate()["negative_elbo"]
    for step in range(60):
        objective.train_step(loader.next(), step)
    assert objective.evaluate()["negative_elbo"] < before - 2


@pytest.fixture
def guided(recipe, raw_recipe, dataset, judge_folder, tmp_path):
    """An objective with another judge as its guide."""
    guide = tmp_path / "guide"
    loaded = checkpoint.load(judge_folder, JUDGES)
    loaded.model.to_logits.weight.mul_(30)  # so that it has opinions, if arbitrary ones
    checkpoint.save(guide, loaded.model, architecture=loaded.config.architecture, config=loaded.config.config)

    def make(**changes):
        raw = raw_recipe("vae")["objective"] | {"guide": str(guide), **changes}
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


def test_guidance_makes_the_guide_see_the_class_and_leaves_the_guide_alone(guided, dataset):
    def guidance_after(weight):
        objective, loader = guided(guide_weight=weight, guide_every=1), Loader(dataset.train, 16, seed=0)
        before = [tensor.clone() for tensor in objective._guide.state_dict().values()]
        for step in range(60):
            found = objective.train_step(loader.next(), step)
        assert all(torch.equal(*pair) for pair in zip(before, objective._guide.state_dict().values(), strict=True))
        return found["guidance"].item()

    assert guidance_after(100.0) < guidance_after(0.0) - 0.1


def test_the_judge_may_not_be_the_guide(guided, judge_folder):
    with pytest.raises(TrainingError, match=r"objective\.guide is objective\.judge"):
        guided(guide=str(judge_folder))


def test_a_missing_guide_is_named(guided, tmp_path):
    with pytest.raises(TrainingError, match="nowhere"):
        guided(guide=str(tmp_path / "nowhere"))


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
