"""Noise is a function of seed and position alone, and looks like noise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.worker import noise as module


def noise(seeds, positions):
    return module.uniforms(np.array(seeds, np.uint64), np.array(positions, np.uint64))


def test_noise_is_pinned():
    """SplitMix64 is a published algorithm; these are its numbers, and a change of them would break every seed."""
    assert module._mix(np.array([module.GOLDEN]))[0] == 0xE220A8397B1DCDAF  # its first output from state 0
    assert noise([0, 0, 1, 7, 2**53 - 1], [0, 1, 1, 511, 1_000_000]).tolist() == [
        0.28176129772258496, 0.6524484863740322, 0.36818951565166946, 0.03307800918154369, 0.34869200137286704,
    ]  # fmt: skip


def slow_uniform(seed, position):
    """The same in Python's own integers."""

    def mix(x):
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    return (mix((mix((seed + golden) % 2**64) + position * golden) % 2**64) >> 11) * 2.0**-53


@given(st.integers(0, 2**53 - 1), st.integers(0, 1 << 20))
def test_noise_is_a_function_of_seed_and_position_alone(seed, position):
    alone = noise([seed], [position])[0]
    among = noise([[1], [seed], [2]], [[position, 5]] * 3)[1, 0]
    assert alone == among == slow_uniform(seed, position)
    assert 0 <= alone < 1


@pytest.mark.parametrize("axis", ["seeds", "positions"])
def test_noise_is_uniform_and_uncorrelated(axis):
    """Neighbouring seeds and neighbouring positions, which is how both are used."""
    count = 20_000
    along = np.arange(count)
    values = noise(along, np.full(count, 9)) if axis == "seeds" else noise(np.full(count, 9), along)
    assert len(np.unique(values)) == count
    assert abs(values.mean() - 0.5) < 5 / np.sqrt(12 * count)
    shares = np.bincount((values * 64).astype(int), minlength=64)
    assert ((shares - count / 64) ** 2 / (count / 64)).sum() < 130  # chi square, 63 degrees of freedom: p = 1e-6
    for lag in (1, 2, 64):
        assert abs(np.corrcoef(values[:-lag], values[lag:])[0, 1]) < 5 / np.sqrt(count)
