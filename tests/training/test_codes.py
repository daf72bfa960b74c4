"""Generators whose pictures tell all of what they were made from, or nothing."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from models.info_gan import InfoGenerator, even
from training import codes, information
from training.errors import TrainingError
from training.judge import ConvJudge, Judge

CONFIG = {"codes": 2, "latent_dim": 5, "num_classes": 3, "embedding_dim": 4, "channels": [8, 8], "base_size": 4}
JUDGE = {"num_classes": 3, "channels": [8], "features": 6, "image_size": 8, "image_channels": 1}


class Honest(InfoGenerator):
    """The category lights a row; each code is the grey of a corner."""

    def __init__(self, *, mute: bool = False) -> None:
        super().__init__(**CONFIG)
        self.mute = mute

    def decode(self, latents, labels, /):
        out = torch.full((len(labels), 1, 8, 8), -1.0)
        if not self.mute:
            out[torch.arange(len(labels)), 0, labels + 2] = 1.0
            out[:, 0, :2, :4], out[:, 0, 6:, 4:] = (even(latents[:, -2 + i].float())[:, None, None] for i in (0, 1))
        return out


class ByRow(nn.Module):
    """A classifier that sees which row is lit, but takes the last class for the first."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))  # so that it has a device

    def features(self, samples):
        return samples.flatten(1).relu()

    def to_logits(self, features):
        rows = features.view(-1, 8, 8)[:, 2:5].mean(2)
        return torch.stack([rows[:, 0] + rows[:, 2], rows[:, 1], torch.zeros(len(rows))], 1)


@pytest.fixture
def judge():
    return Judge(ByRow(), "feed", 3, "halves")


def test_a_reader_finds_what_pictures_tell(judge):
    told = codes.measure(Honest().eval(), judge, 900, 0, torch.float32)
    assert told.classes.tolist() == [0, 1, 0]
    assert told.shares == (1.0, 1.0, 1.0)
    assert min(told.correlations) > 0.95
    assert told.metrics.keys() == set(information.METRICS) - {"category_purity"}
    assert told.metrics["category_information"] > 0.9 * math.log(3)
    assert told.metrics["class_information"] == pytest.approx(math.log(3) - 2 / 3 * math.log(2))
    assert told.metrics["code_information"] > 1
    assert told.metrics["least_code_correlation"] == min(told.correlations)
    how = told.how(["a", "b", "c"])
    assert how["categories"] == [{"class": name, "share": 1.0} for name in ("a", "b", "a")]
    assert how["code_correlations"].keys() == {"code_0", "code_1"}


def test_pictures_that_are_all_the_same_tell_nothing(judge):
    told = codes.measure(Honest(mute=True).eval(), judge, 300, 0, torch.float32)
    assert told.metrics["class_information"] == 0
    assert told.metrics["category_information"] < 0.01
    assert told.metrics["code_information"] == 0
    assert abs(told.metrics["least_code_correlation"]) < 0.2
    assert all(math.isfinite(value) for value in told.metrics.values())


def test_measuring_twice_gives_the_same_and_draws_no_noise_of_others(judge):
    model = InfoGenerator(**CONFIG).eval()
    before = torch.get_rng_state()
    first, second = (codes.measure(model, judge, 60, 0, torch.float32) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert first.metrics == second.metrics


def test_a_traversal_moves_one_code_and_nothing_else():
    model = Honest().eval()
    grid = codes.traversal(model).view(2, 3, codes.STEPS, 8, 8)
    ends = even(torch.linspace(-codes.EDGE, codes.EDGE, codes.STEPS))
    drawn = even(torch.randn(3, 5, generator=torch.Generator().manual_seed(0))[:, -2:])
    for code, (moved, still) in enumerate((((0, 0), (7, 7)), ((7, 7), (0, 0)))):
        for category in range(3):
            row = grid[code, category]
            assert torch.equal(row[:, 2 + category].amax(1), torch.ones(codes.STEPS))
            torch.testing.assert_close(row[:, moved[0], moved[1]], ends)
            torch.testing.assert_close(row[:, still[0], still[1]], drawn[category, 1 - code].expand(codes.STEPS))


def test_controls_are_the_last_entries_and_only_an_info_gan_has_them():
    found = codes.controls(InfoGenerator(**CONFIG))
    assert found == {f"code_{i}": {"index": 3 + i, "min": -2.0, "max": 2.0} for i in (0, 1)}
    assert codes.controls(ConvJudge(**JUDGE)) == {}
    assert codes.labels(InfoGenerator(**CONFIG), ("a",)) == ("category 0", "category 1", "category 2")
    assert codes.labels(ConvJudge(**JUDGE), ("a",)) == ("a",)


def test_a_card_says_which_classes_the_categories_stand_for():
    table = [{"class": "b", "share": 0.9}, {"class": "a", "share": 0.5}, {"class": "b", "share": 0.4}]
    labels = torch.tensor([0, 1, 2, 0])
    assert codes.shown({"evaluation": {"categories": table}}, ["a", "b"], labels).tolist() == [1, 0, 1, 1]
    assert codes.shown({"evaluation": {}}, ["a", "b"], labels) is labels
    for broken in ([{"class": "c"}], [{}], [], 3, table[:2]):
        with pytest.raises(TrainingError, match="the card's categories do not fit the classes a, b"):
            codes.shown({"evaluation": {"categories": broken}}, ["a", "b"], labels)


def test_mutual_information_of_a_table():
    assert codes._mutual(np.array([[5, 0], [0, 5]])) == pytest.approx(math.log(2))
    assert codes._mutual(np.array([[4, 4], [1, 1]])) == pytest.approx(0, abs=1e-12)
