"""Mu-law companding (ITU-T G.711's curve, continuous): a sample in [-1, 1] as one of 256 codes, and back.

Steps are fine around silence and coarse where it is loud, as ears are. Knows numbers alone.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

CODES = 256
SILENCE = 128  # the code of 0


def encode(samples: ArrayLike) -> NDArray[np.uint8]:
    """Samples in [-1, 1], any shape -> codes; louder ones are cut off."""
    x = np.clip(np.asarray(samples, np.float64), -1, 1)
    curved = np.sign(x) * np.log1p((CODES - 1) * np.abs(x)) / np.log(CODES)
    codes: NDArray[np.uint8] = np.floor((curved + 1) / 2 * (CODES - 1) + 0.5).astype(np.uint8)
    return codes


def decode(codes: ArrayLike) -> NDArray[np.float64]:
    """Codes, any shape -> the samples that they stand for, in [-1, 1]."""
    return _expand(2 * np.asarray(codes, np.float64) / (CODES - 1) - 1)


def edges() -> NDArray[np.float64]:
    """Where one code ends and the next one begins, [CODES - 1], ascending."""
    return _expand((2 * np.arange(CODES - 1) + 1) / (CODES - 1) - 1)


def _expand(curved: NDArray[np.float64]) -> NDArray[np.float64]:
    expanded: NDArray[np.float64] = np.sign(curved) * (CODES ** np.abs(curved) - 1) / (CODES - 1)
    return expanded
