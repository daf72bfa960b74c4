"""Counter-based noise: one uniform number a row and step, a function of seed and position alone.

SplitMix64 (Steele et al. 2014). A batch shares no generator, so that nobody's noise depends on neighbours.
"""

import numpy as np
from numpy.typing import NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seeds: NDArray[np.uint64], positions: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Numbers in [0, 1) for these seeds and positions, which are broadcast."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2 ** 64 is the point
        mixed = _mix(_mix(seeds + GOLDEN) + positions * GOLDEN)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
