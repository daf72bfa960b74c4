"""Which prompt a clip sounds most like: a recogniser by templates, as cheap as they come (Sakoe & Chiba 1978).

Knows what clips sound like, frame by frame; knows nothing of networks. It says whether a clip resembles a recording of
its words more than recordings of other words, and not whether anybody would understand it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CEPSTRA = 12
STRIDE = 2  # frames of a step: 20 ms

Features = NDArray[np.float64]


def features(bands: NDArray[np.float32]) -> Features:
    """Log energies of bands [frames, bands] -> cepstra without the loudness, of zero mean, [steps, CEPSTRA]."""
    count = bands.shape[1]
    angles = np.pi / count * np.outer(np.arange(count) + 0.5, np.arange(1, CEPSTRA + 1))
    cepstra = bands[::STRIDE].astype(np.float64) @ np.cos(angles)
    return np.asarray(cepstra - cepstra.mean(0))


def distance(one: Features, other: Features) -> float:
    """How far two clips are apart when each is stretched as suits the other best: mean along the way."""
    costs = np.linalg.norm(one[:, None] - other, axis=2)
    rows, columns = costs.shape
    # Cells on one diagonal do not depend on each other: row i of `skewed` holds diagonal i of the costs.
    skewed = np.full((rows + columns - 1, rows), np.inf)
    for row in range(rows):
        skewed[row : row + columns, row] = costs[row]
    before, last = np.full(rows + 1, np.inf), np.full(rows + 1, np.inf)  # element i + 1 is row i
    last[1] = 2 * costs[0, 0]
    for diagonal in skewed[1:]:
        best = np.minimum(np.minimum(last[1:], last[:-1]) + diagonal, before[:-1] + 2 * diagonal)
        before, last = last, np.concatenate([[np.inf], best])
    found: float = last[rows] / (rows + columns)
    return found


def ranks(clips: Sequence[Features], templates: Sequence[Features]) -> list[int]:
    """How many other templates each clip is nearer to than to its own, which has its number."""
    found = []
    for number, clip in enumerate(clips):
        distances = [distance(clip, template) for template in templates]
        found.append(sum(bool(other < distances[number]) for other in distances))
    return found
