import pytest
import torch

from training.data import Loader
from training.errors import TrainingError
from training.vq import VqObjective

CPU = torch.device("cpu")


@pytest.fixture
def build(recipe, raw_recipe, captioned):
    def make(model=None, **options):
        torch.manual_seed(0)
        raw = raw_recipe("vq")["model"]
        raw["config"] |= model or {}
        objective = raw_recipe("vq")["objective"] | options
        changed = recipe("vq", objective=objective, model=raw, precision="fp32", learning_rate=1e-2)
        return VqObjective(changed, captioned, CPU)

    return make


def trained(objective, captioned, steps):
    loader = Loader(captioned.train, 16, seed=0)
    return [objective.train_step(loader.next(), step) for step in range(steps)]


def test_pictures_come_back_better_and_with_more_codes(build, captioned):
    objective = build()
    before = objective.evaluate()
    found = trained(objective, captioned, 60)
    after = objective.evaluate()
    assert found[-1]["error"] < 0.7 * found[0]["error"]
    assert after["psnr"] > before["psnr"] + 1
    assert after["psnr_emoji"] > before["psnr_emoji"] + 1
    assert after["used_codes"] >= 8
    assert all(set(values) == {"error", "commitment", "dead_codes"} for values in found)


def test_the_codebook_begins_at_features_of_the_first_batch_and_follows_them(build, captioned):
    objective = build()
    (entries,) = (objective.networks["vq"].codebook,)
    first = entries.clone()
    trained(objective, captioned, 1)
    assert not torch.equal(entries, first)
    features = objective.networks["vq"].features(captioned.train.batch(torch.arange(16)).samples)
    assert entries.std() < 3 * features.std(), "fresh ones were far from any feature"


def test_the_gradient_passes_the_choice_of_the_code(build, captioned):
    """Without commitment, the encoder learns from the pictures' error alone."""
    objective = build(commitment=0.0)
    before = [p.clone() for p in objective.networks["vq"].encoder.parameters()]
    trained(objective, captioned, 1)
    moved = [not torch.equal(*pair) for pair in zip(before, objective.networks["vq"].encoder.parameters(), strict=True)]
    assert all(moved)


def test_commitment_draws_features_to_their_codes(build, captioned):
    loose = trained(build(commitment=0.0), captioned, 30)[-1]["commitment"]
    tight = trained(build(commitment=4.0), captioned, 30)[-1]["commitment"]
    assert tight < loose / 2


def test_dead_codes_are_left_alone_in_the_end(build, captioned):
    objective = build(restart_until=0, rarest=1e6)
    uses = objective.networks["tracker"].uses
    found = trained(objective, captioned, 2)
    assert found[-1]["dead_codes"] == 16
    assert uses.max() < 1e6
    objective = build(restart_until=2, rarest=1e6)
    trained(objective, captioned, 2)
    assert torch.equal(objective.networks["tracker"].uses, torch.full((16,), 1e6))


def test_the_grid_shows_pictures_over_what_comes_back(build, captioned):
    grid = build().samples()
    assert grid.shape == (2 * 2 * 4 * 10, 3, 32, 32)
    index = torch.linspace(0, len(captioned.test) - 1, 40).long()
    assert torch.equal(grid[:10], captioned.test.batch(index).samples[:10])
    assert not torch.equal(grid[10:20], grid[:10])
    assert torch.equal(grid[20:30], captioned.test.batch(index).samples[10:20])


def test_what_is_published_is_the_average(build):
    objective = build()
    assert objective.product() is objective.ema.model


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_channels": 1}, r"does not fit pictures of \[3, 32, 32\]"),
        ({"base_size": 4}, r"does not fit pictures of \[3, 32, 32\]"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(build, changes, said):
    with pytest.raises(TrainingError, match=said):
        build(changes)


def test_another_kind_of_network_is_refused(recipe, raw_recipe, captioned):
    model = raw_recipe("vae")["model"]
    with pytest.raises(TrainingError, match="'conv-vae' is not a discrete autoencoder"):
        VqObjective(recipe("vq", model=model), captioned, CPU)
