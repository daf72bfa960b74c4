"""Predictors against what is known of simple signals."""

import numpy as np
import pytest

from models import mu_law
from training import prediction


def noise(count=4000, seed=0, scale=0.05):
    return np.random.default_rng(seed).laplace(0, scale, count)


def resonance(count=4000):
    """Noise through two poles: easy to predict but for the noise."""
    samples, drive = np.zeros(count), noise(count, scale=0.002)
    for place in range(2, count):
        samples[place] = 1.8 * samples[place - 1] - 0.9 * samples[place - 2] + drive[place]
    return samples


def test_a_bigram_knows_what_follows_what():
    codes = np.tile(np.array([1, 2, 3, 2], np.uint8), 500)
    assert prediction.bigram_bits([codes], [codes]) == pytest.approx(0.5, abs=0.1)  # after a 2 it can be either
    other = np.full(100, 77, np.uint8)
    assert prediction.bigram_bits([codes], [other]) == pytest.approx(8, abs=0.1)


def test_what_is_left_of_a_resonance_is_what_drove_it():
    samples = resonance()
    missed = samples - prediction._predict(samples, slice(0, len(samples)), prediction._coefficients(samples))
    assert np.abs(samples).mean() > 0.01
    assert np.abs(missed).mean() == pytest.approx(0.002, rel=0.15)


@pytest.mark.parametrize("measure", [prediction.forward_lpc_bits, prediction.backward_lpc_bits])
def test_what_can_be_predicted_costs_less(measure):
    flat, shaped = mu_law.encode(noise(scale=0.02)), mu_law.encode(resonance())
    assert mu_law.decode(shaped).std() > mu_law.decode(flat).std() / 2
    assert measure([shaped]) < measure([flat]) - 1


def test_looking_ahead_is_worth_something():
    codes = [mu_law.encode(resonance())]
    assert prediction.forward_lpc_bits(codes) < prediction.backward_lpc_bits(codes)


def test_the_backward_predictor_never_looks_ahead():
    """The predictions of a clip's beginning are the same whatever comes after."""
    samples = mu_law.decode(mu_law.encode(resonance(400)))
    changed = np.concatenate([samples[:200], -samples[200:]])
    one, other = (list(prediction._backward(part))[:10] for part in (samples, changed))
    for (place, predicted, scale), (_, same, width) in zip(one, other, strict=True):
        assert place.stop <= 200
        assert predicted[0] == same[0]
        assert scale == width


def test_no_code_costs_nothing_and_the_first_samples_cost_what_they_should():
    codes = np.full(64, mu_law.SILENCE, np.uint8)
    assert 0 < prediction.backward_lpc_bits([codes]) < 2
    assert 0 < prediction.forward_lpc_bits([codes]) < 2


def test_a_clip_shorter_than_the_order_has_bits_too():
    assert prediction.forward_lpc_bits([np.array([128, 130, 99], np.uint8)]) > 0
    assert prediction.backward_lpc_bits([np.array([128, 130, 99], np.uint8)]) > 0
