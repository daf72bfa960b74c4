"""What counts of a picture with a hole, where a search begins, and what is kept of what it finds."""

import threading

import numpy as np
import pytest

from app import inpainting, latents
from app.engine.jobs import ModelInfo
from app.errors import InvalidField
from app.inpainting import CANDIDATES, LEAST_WEIGHT, STARTS, Start, Wanted, drawn_seed, hole_of, plan_filled

INFO = ModelInfo("m", latent_shape=(4,), num_classes=3, image_shape=(8, 8, 1), digest="d" * 64)


def hole(mask=None, picture=None):
    if mask is None:
        mask = np.zeros((8, 8), bool)
        mask[3:5, 3:5] = True
    return hole_of(np.full((8, 8, 1), 100, np.uint8) if picture is None else picture, mask, "mask")


def test_known_pixels_near_the_hole_count_most():
    """The weights of the paper: the share of hole around a pixel; and some for the others."""
    found = hole()
    assert found.weights.dtype == np.float32
    assert found.weights.sum() == pytest.approx(1.0)
    assert (found.weights[found.mask] == 0).all()
    beside, corner = (LEAST_WEIGHT + (1 - LEAST_WEIGHT) * share / 49 for share in (4, 1))
    assert found.weights[2, 3] / found.weights[7, 7] == pytest.approx(beside / corner)
    assert found.weights[7, 7] == found.weights[~found.mask].min()


@pytest.mark.parametrize(
    ("value", "field", "message"),
    [(False, "mask", "nothing of it is white"), (True, "mask", "all of it is white"), (True, "image", "transparent")],
)
def test_there_has_to_be_a_hole_and_something_around_it(value, field, message):
    with pytest.raises(InvalidField, match=message) as caught:
        hole_of(np.zeros((8, 8, 1), np.uint8), np.full((8, 8), value), field)
    assert caught.value.field == field


def test_one_unknown_pixel_and_one_known_one_are_enough():
    for value in (True, False):
        mask = np.full((8, 8), not value)
        mask[0, 0] = value
        assert np.isfinite(hole(mask).weights).all()
        assert hole(mask).weights.sum() == pytest.approx(1.0)


def test_the_known_stays_and_the_hole_is_filled():
    found = hole()
    other = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    filled = found.filled(other)
    assert (filled[found.mask] == other[found.mask]).all()
    assert (filled[~found.mask] == 100).all()


def test_distances_are_of_the_known_alone():
    found = hole()
    pictures = np.full((3, 8, 8, 1), 100, np.uint8)
    pictures[0][found.mask] = 255
    pictures[1] += 10
    pictures[2][7, 7] = 0
    zero, ten, corner = found.distances(pictures)
    assert zero == 0
    assert ten == pytest.approx(10)
    assert corner == pytest.approx(100 * found.weights[7, 7])


def test_the_best_are_kept_in_order():
    pictures = np.full((4, 8, 8, 1), 100, np.uint8) + np.array([9, 3, 0, 3], np.uint8)[:, None, None, None]
    z = np.arange(4, dtype=np.float32)[:, None]
    best = Start(z, np.array([0, 1, 2, 0]), pictures).best(hole(), 3)
    assert best.latents.ravel().tolist() == [2, 1, 3]
    assert best.labels.tolist() == [2, 1, 0]
    assert best.pictures[0, 0, 0, 0] == 100


def test_candidates_are_those_of_the_seeds():
    z, labels = Wanted(INFO, None, 7, 10).candidates()
    assert z.shape == (CANDIDATES, 4)
    assert set(labels.tolist()) == {0, 1, 2}
    for j in (0, 5):
        own, label = latents.from_seed(7 + j, (4,), 3)
        np.testing.assert_array_equal(z[j], own)
        assert labels[j] == label
    assert set(Wanted(INFO, 2, 7, 10).candidates()[1].tolist()) == {2}
    assert STARTS <= CANDIDATES


def test_seeds_leave_room_for_all_candidates():
    assert drawn_seed(latents.MAX_SEED - CANDIDATES + 1) == latents.MAX_SEED - CANDIDATES + 1
    assert 0 <= drawn_seed(None) <= latents.MAX_SEED - CANDIDATES
    with pytest.raises(InvalidField, match="seed: seed \\+ 63 must not exceed"):
        drawn_seed(latents.MAX_SEED - CANDIDATES + 2)


def test_the_story_names_what_made_the_picture():
    found = Start(np.zeros((1, 4), np.float32), np.array([2]), np.zeros((1, 8, 8, 1), np.uint8))
    plan = plan_filled(Wanted(INFO, None, 7, 10), found, hole(), 3)
    assert plan.parameters == ({"inpaint": {"seed": 7, "steps": 10, "filled": 4, "label": 2, "scale": 3}},)
    assert "compositeWithTrainedAlgorithmicMedia" in plan.provenance(0).xmp()
    assert plan.told == [(7, 2)]


@pytest.mark.parametrize(("side", "inline"), [(8, True), (64, False)])
async def test_many_pixels_are_compared_in_a_thread(monkeypatch, side, inline):
    """What takes longer than a moment holds up nobody else."""
    threads, best = [], Start.best
    monkeypatch.setattr(Start, "best", lambda *given: threads.append(threading.get_ident()) or best(*given))
    pictures = np.arange(32, dtype=np.uint8)[:, None, None, None].repeat(side, 1).repeat(side, 2)
    start = Start(np.arange(32, dtype=np.float32)[:, None], np.zeros(32, np.int64), pictures)
    mask = np.zeros((side, side), bool)
    mask[0] = True
    found = await inpainting._best(start, hole_of(np.full((side, side, 1), 9, np.uint8), mask, "mask"), 2)
    assert found.latents.ravel().tolist() == [9.0, 8.0]
    assert (threads == [threading.get_ident()]) is inline
