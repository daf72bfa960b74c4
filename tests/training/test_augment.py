"""What is mirrored and shifted, how often, and that gradients find their way back."""

import pytest
import torch

from training.augment import mirrored, shifted


def points(count):
    """A bright point at (3, 2) of 8 x 8 black ones."""
    samples = torch.full((count, 1, 8, 8), -1.0)
    samples[:, :, 3, 2] = 1.0
    return samples


def places(samples):
    return [tuple(place[2:].tolist()) for place in (samples == 1).nonzero()]


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_mirrors_as_often_as_asked(probability):
    torch.manual_seed(0)
    found = places(mirrored(points(2000), probability))
    assert set(found) <= {(3, 2), (3, 5)}
    assert found.count((3, 5)) / 2000 == pytest.approx(probability, abs=0.04)


def test_shifts_everywhere_within_reach_and_fills_with_black():
    torch.manual_seed(0)
    out = shifted(points(2000), 2)
    assert set(places(out)) == {(row, column) for row in range(1, 6) for column in range(5)}
    assert (out.sum((1, 2, 3)) == 1 - 63).all()


def test_most_pictures_stay_where_they_are_when_asked():
    torch.manual_seed(0)
    found = places(shifted(points(2000), 2, 0.5))
    assert found.count((3, 2)) / 2000 == pytest.approx(0.5 + 0.5 / 25, abs=0.04)


def test_gradients_come_back_to_the_pixels_that_were_kept():
    torch.manual_seed(0)
    samples = points(64).requires_grad_(True)
    shifted(mirrored(samples, 0.25), 1).sum().backward()
    assert set(samples.grad.unique().tolist()) == {0.0, 1.0}
    assert samples.grad[:, 0, 3, 2].all()  # far from the edge: never pushed out
