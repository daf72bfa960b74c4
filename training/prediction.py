"""What simple predictors make of recordings: the bits a sample that a network for speech must beat.

Knows codes and numpy; knows no network. Both are asked what the network is asked: how likely is this code, given the
codes before it.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from models import mu_law

Codes = NDArray[np.uint8]
Samples = NDArray[np.float64]

ORDER = 16
FRAME = 160  # samples between two fits: 20 ms at 8 kHz
WINDOW = 320  # samples of a fit
BLOCK = 20  # samples between two fits of the backward predictor
NOISE = 1e-4  # share of the energy that is added as white noise, against overconfidence
SMALLEST = 1e-4  # scale of residuals: about half a step around silence
LEAST = 1e-7  # probability of a code, whatever is predicted
SMOOTHING = 0.05  # times that every pair of codes has been seen before anything has


def bigram_bits(train: Sequence[Codes], test: Sequence[Codes]) -> float:
    """Bits a sample of the test clips, each given the one before it, by what stood behind it in the training clips."""
    counts = np.full((mu_law.CODES, mu_law.CODES), SMOOTHING)
    for codes in train:
        np.add.at(counts, _pairs(codes), 1)
    bits = -np.log2(counts / counts.sum(1, keepdims=True))
    return float(sum(bits[_pairs(codes)].sum() for codes in test) / sum(map(len, test)))


def _pairs(codes: Codes) -> tuple[Codes, Codes]:
    """What stands before each code, silence before the first, and the codes."""
    return np.concatenate([[np.uint8(mu_law.SILENCE)], codes[:-1]]), codes


def forward_lpc_bits(clips: Sequence[Codes]) -> float:
    """Bits a sample by linear prediction whose coefficients and scale are fitted to the very frame that they predict.

    They cost nothing here, where a coder would have to send them: hardly any coder of this order and frame is as good.
    """
    found = [_bits(codes, _forward(mu_law.decode(codes))) for codes in clips]
    return float(sum(found) / sum(map(len, clips)))


def backward_lpc_bits(clips: Sequence[Codes]) -> float:
    """Bits a sample by linear prediction that is fitted to samples of the past alone, so that nothing is to be sent."""
    found = [_bits(codes, _backward(mu_law.decode(codes))) for codes in clips]
    return float(sum(found) / sum(map(len, clips)))


Prediction = tuple[slice, Samples, float]  # of which samples, what they should be, and the scale of the error


def _bits(codes: Codes, predictions: Iterator[Prediction]) -> float:
    """Bits of a clip: the error is Laplace, and a code is as likely as the interval that it stands for."""
    edges = np.concatenate([[-np.inf], mu_law.edges(), [np.inf]])
    total = 0.0
    for place, predicted, scale in predictions:
        below, above = edges[codes[place]] - predicted, edges[codes[place].astype(int) + 1] - predicted
        total -= float(np.log2(np.maximum(_laplace(above, scale) - _laplace(below, scale), LEAST)).sum())
    return total


def _laplace(x: Samples, scale: float) -> Samples:
    """Probability that an error is below x."""
    tail = 0.5 * np.exp(-np.abs(x) / scale)
    return np.where(x < 0, tail, 1 - tail)


def _forward(samples: Samples) -> Iterator[Prediction]:
    for first in range(0, len(samples), FRAME):
        place = slice(first, min(first + FRAME, len(samples)))
        around = samples[max(0, first - (WINDOW - FRAME) // 2) : first + FRAME + (WINDOW - FRAME) // 2]
        predicted = _predict(samples, place, _coefficients(around))
        yield place, predicted, max(SMALLEST, float(np.abs(samples[place] - predicted).mean()))


def _backward(samples: Samples) -> Iterator[Prediction]:
    for first in range(0, len(samples), BLOCK):
        place = slice(first, min(first + BLOCK, len(samples)))
        past = samples[max(0, first - WINDOW) : first]
        coefficients = _coefficients(past)
        recent = slice(max(0, first - 2 * BLOCK), first)
        missed = np.abs(samples[recent] - _predict(samples, recent, coefficients)) if first else np.zeros(1)
        yield place, _predict(samples, place, coefficients), max(SMALLEST, 1.1 * float(missed.mean()))


def _coefficients(samples: Samples) -> Samples:
    """Of the best linear prediction of these samples, [ORDER], newest first: the autocorrelation method."""
    if len(samples) <= ORDER:
        return np.zeros(ORDER)
    windowed = samples * np.hanning(len(samples) + 2)[1:-1]
    correlation = np.array([windowed[lag:] @ windowed[: len(windowed) - lag] for lag in range(ORDER + 1)])
    correlation[0] = correlation[0] * (1 + NOISE) + 1e-9
    apart = np.abs(np.subtract.outer(np.arange(ORDER), np.arange(ORDER)))
    return np.asarray(np.linalg.solve(correlation[apart], correlation[1:]))


def _predict(samples: Samples, place: slice, coefficients: Samples) -> Samples:
    """What these samples should be by those before them; silence before the first."""
    before = np.concatenate([np.zeros(ORDER), samples])[place.start : place.stop + ORDER - 1]
    if not len(before) >= ORDER:
        return np.zeros(0)
    return np.convolve(before, coefficients, "valid")
