import pytest
import torch

from training.classifier import ClassifierObjective, augment
from training.data import Loader
from training.errors import TrainingError


def pictures_with_one_point(count):
    samples = torch.full((count, 1, 8, 8), -1.0)
    samples[:, 0, 3, 2] = 1.0
    return samples


def test_augmenting_mirrors_and_shifts_by_up_to_two_pixels():
    torch.manual_seed(0)
    out = augment(pictures_with_one_point(2000))
    assert out.shape == (2000, 1, 8, 8)
    assert out.flatten(1).eq(1).sum(1).eq(1).all()  # the point is never lost and never doubled
    rows, columns = (set(index.tolist()) for index in out.eq(1).nonzero()[:, 2:].T)
    assert rows == {1, 2, 3, 4, 5}
    assert columns == {0, 1, 2, 3, 4} | {3, 4, 5, 6, 7}  # column 2, or its mirror image 5, and two to either side


def test_augmenting_is_drawn_a_picture_at_a_time():
    torch.manual_seed(0)
    out = augment(pictures_with_one_point(50))
    assert len({tuple(picture.flatten().tolist()) for picture in out}) > 20


def test_it_learns_the_halves(recipe, dataset):
    torch.manual_seed(0)
    objective = ClassifierObjective(recipe("classifier"), dataset, torch.device("cpu"))
    loader = Loader(dataset.train, 16, seed=0)
    for step in range(40):
        objective.train_step(loader.next(), step)
    # mirrored training pictures make left and right one class: two in three can be told
    assert objective.evaluate()["accuracy"] > 0.6
    assert objective.samples() is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"image_size": 16}, r"model\.config does not fit pictures of \[1, 8, 8\]"),
        ({"num_classes": 4}, r"model\.config gives 4 classes, data\.labels names 3"),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_refused(recipe, raw_recipe, dataset, config, message):
    model = raw_recipe("classifier")["model"]
    model["config"] |= config
    with pytest.raises(TrainingError, match=message):
        ClassifierObjective(recipe("classifier", model=model), dataset, torch.device("cpu"))


def test_the_product_is_a_normalised_copy(recipe, dataset):
    torch.manual_seed(0)
    objective = ClassifierObjective(recipe("classifier"), dataset, torch.device("cpu"))
    kept = {name: tensor.clone() for name, tensor in objective.ema.model.state_dict().items()}
    product = objective.product()
    samples = dataset.train.batch(torch.arange(96)).samples
    assert abs(product.features(samples).var(0).mean().item() - 1) < 1e-4
    assert all(torch.equal(tensor, kept[name]) for name, tensor in objective.ema.model.state_dict().items())
