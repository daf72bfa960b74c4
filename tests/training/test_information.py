"""The bounds where they are known: nothing read, all read, and a normal distribution of known error."""

import math

import pytest
import torch

from models.info_gan import Reading
from training import information

LABELS = torch.arange(300) % 3
CODES = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_nothing_read_is_nothing_told():
    assert information.category_bound(torch.zeros(300, 3), LABELS).item() == pytest.approx(0, abs=1e-6)
    unread = torch.full((300, 2), math.log(1 / 3))
    assert (information.code_bound(torch.zeros(300, 2), unread, CODES) < 0).all()  # a normal one is a loose fit


def test_all_read_is_the_whole_entropy_of_the_categories():
    sure = 100 * torch.nn.functional.one_hot(LABELS, 3).float()
    assert information.category_bound(sure, LABELS).item() == pytest.approx(math.log(3))
    assert information.category_bound(sure.roll(1, 1), LABELS).item() < -50  # wrong and sure of it
    assert information.category_bound(torch.zeros(300, 0), LABELS).item() == 0


@pytest.mark.parametrize("deviation", [0.1, 0.02])
def test_codes_read_with_an_error_tell_what_shannon_says(deviation):
    noise = torch.randn(300, 2, generator=torch.Generator().manual_seed(1)) * deviation
    told = information.code_bound(CODES + noise, torch.full((300, 2), 2 * math.log(deviation)), CODES)
    expected = math.log(2) - 0.5 * math.log(2 * math.pi * math.e * deviation**2)
    assert told.tolist() == pytest.approx([expected] * 2, abs=0.1)


def test_both_bounds_of_one_reading():
    reading = Reading(torch.zeros(300, 3), CODES, torch.full((300, 2), -4.0))
    categories, codes = information.bounds(reading, LABELS, CODES)
    assert categories.item() == pytest.approx(0, abs=1e-6)
    assert codes.item() == pytest.approx(2 * (math.log(2) - 0.5 * (math.log(2 * math.pi) - 4)), rel=1e-5)
