"""Mu-law as ITU-T G.711 draws its curve."""

import numpy as np
import pytest

from models import mu_law


def test_silence_and_full_scale_have_their_codes():
    assert mu_law.encode([0.0, 1.0, -1.0, 2.0]).tolist() == [mu_law.SILENCE, 255, 0, 255]


def test_every_code_comes_back():
    codes = np.arange(256)
    assert (mu_law.encode(mu_law.decode(codes)) == codes).all()
    assert (np.diff(mu_law.decode(codes)) > 0).all()


def test_the_error_is_small_beside_the_sample():
    samples = np.concatenate([np.geomspace(1e-3, 1, 500), -np.geomspace(1e-3, 1, 500)])
    error = np.abs(mu_law.decode(mu_law.encode(samples)) - samples)
    assert (error / np.abs(samples)).max() < 0.12
    assert error[np.abs(samples) < 2e-3].max() < 2e-4


@pytest.mark.parametrize("shift", [-1e-9, 1e-9])
def test_codes_end_at_their_edges(shift):
    edges = mu_law.edges()
    assert edges.shape == (255,)
    assert (mu_law.encode(edges + shift) == np.arange(255) + (shift > 0)).all()
