"""What a clip sounds like, frame by frame: energies of bands as wide as ears tell them apart.

Knows samples and numpy; knows nothing of networks. What a transcript is taught by, what clips are compared by, and what
a card shows.
"""

import functools

import numpy as np
from numpy.typing import NDArray

WINDOW = 256  # samples of a frame's Fourier transform: 32 ms at 8 kHz
BANDS = 24
QUIETEST = 1e-5  # energy of a band in which nothing is heard

Frames = NDArray[np.float32]


def magnitudes(samples: NDArray[np.float64], hop: int) -> NDArray[np.float64]:
    """Samples [n] -> [frames, WINDOW / 2 + 1], frame i around the middle of samples i * hop to (i + 1) * hop."""
    count = -(-len(samples) // hop)
    before = (WINDOW - hop) // 2
    padded = np.pad(samples, (before, count * hop - len(samples) + WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::hop][:count]
    return np.abs(np.fft.rfft(frames * np.hanning(WINDOW)))


def log_bands(samples: NDArray[np.float64], hop: int, rate: int) -> Frames:
    """Samples [n] in [-1, 1] -> logarithms of the energies of `BANDS` bands, [frames, BANDS]."""
    energies = magnitudes(samples, hop) ** 2 @ _filters(rate)
    return np.log(energies + QUIETEST).astype(np.float32)


@functools.cache
def _filters(rate: int) -> NDArray[np.float64]:
    """Triangles that are equally wide on the mel scale, [WINDOW / 2 + 1, BANDS]."""
    mel = np.linspace(_mel(60.0), _mel(rate / 2), BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    bins = np.arange(WINDOW // 2 + 1)[:, None] * rate / WINDOW
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.clip(np.minimum(rising, falling), 0, None)


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))
