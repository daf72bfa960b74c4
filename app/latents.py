"""From seeds to latents, at the edge and in numpy: the same everywhere, whatever the device and the batch.

Knows random numbers and shapes; knows no model and no request.
"""

import math
import threading

import numpy as np
from numpy.typing import NDArray

MAX_SEED = 2**53 - 1  # what a JSON number holds exactly in every client


class _Source(threading.local):
    """One generator a thread, set to a seed's beginning: making a new one takes four times as long."""

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=0)
        self._state = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def at(self, seed: int, block: int = 0) -> np.random.Generator:
        """The generator that Philox(key=seed) would give, until the next call, or one of its far blocks of numbers."""
        self._state["state"]["key"][0] = seed
        self._state["state"]["counter"][3] = block
        self._bits.state = self._state
        return self._generator


_source = _Source()


def from_seed(seed: int, shape: tuple[int, ...], num_classes: int) -> tuple[NDArray[np.float32], int]:
    """A standard normal latent of this shape and a uniformly drawn label, both a function of the seed alone.

    The label is drawn after the latent, so that asking for a certain label leaves the latent as it is.
    """
    generator = _source.at(seed)
    latent = generator.standard_normal(shape, np.float32)
    return latent, int(generator.integers(num_classes)) if num_classes else 0


def further_seeds(seed: int, count: int) -> list[int]:
    """A seed and others that follow from it, `count` in all; no two seeds' own lie near each other."""
    return [seed, *(int(bits) >> 11 for bits in np.random.Philox(key=seed).random_raw(count - 1))]  # 53 bits of 64


def step_noise(seed: int, step: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal noise of this shape for a step, counted from 0, of the latent that this seed gives.

    A function of seed and step alone; of numbers that neither the latent nor another step has used.
    """
    return _source.at(seed, step + 1).standard_normal(shape, np.float32)


def interpolate(start: NDArray[np.float32], end: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """Spherical interpolation (Shoemake 1985; White 2016 for latents): [steps, *shape], both ends included."""
    a, b = start.astype(np.float64).ravel(), end.astype(np.float64).ravel()
    cosine = np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), -1.0, 1.0)
    angle = np.arccos(cosine)
    t = np.linspace(0.0, 1.0, steps)[:, None]
    if np.sin(angle) < 1e-6:  # parallel: the arc is a straight line
        path = (1 - t) * a + t * b
    else:
        path = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return path.reshape(steps, *start.shape).astype(np.float32)


def styled_from_seed(seed: int, shape: tuple[int, ...], num_classes: int) -> tuple[NDArray[np.float32], int]:
    """A latent [styles, dim] with the same direction for each style, and a label, both a function of the seed alone."""
    latent, label = from_seed(seed, shape[1:], num_classes)
    return _each_style(latent, shape[0]), label


def interpolate_styled(start: NDArray[np.float32], end: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """The walk between two drawn latents [styles, dim] of a style-based generator: [steps, styles, dim]."""
    return np.stack([_each_style(latent, len(start)) for latent in interpolate(start[0], end[0], steps)])


def _each_style(latent: NDArray[np.float32], styles: int) -> NDArray[np.float32]:
    """A latent [dim], brought to a root-mean-square length of 1, once for each style: [styles, dim].

    The sum is exactly rounded: whoever adds in another order, as other processors do, gets the same bits.
    """
    exact = latent.astype(np.float64)
    length = math.sqrt(math.fsum(exact * exact) / len(exact))
    unit = (exact / length if length else exact).astype(np.float32)
    return np.repeat(unit[None], styles, axis=0)
