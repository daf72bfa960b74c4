"""Pictures of what clips sound like: time to the right, frequency upwards, energy as brightness.

Knows samples and Pillow; knows nothing of networks.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training import spectrum

HOP = 32  # samples of a column
ROWS = spectrum.WINDOW // 2
RANGE = 60.0  # decibels from the darkest to the brightest
MARGIN, TITLE = 6, 14  # pixels
SHADES = 32
COLOURS = np.array([[0, 0, 10], [60, 15, 110], [180, 50, 110], [250, 140, 60], [255, 255, 220]], np.float64)

Samples = NDArray[np.float64]


def spectrogram(samples: Samples) -> NDArray[np.uint8]:
    """Samples [n] in [-1, 1] -> a picture [ROWS, columns, 3]."""
    energies = spectrum.magnitudes(samples, HOP)[:, 1:]
    decibels = 20 * np.log10(energies + 1e-6)
    share = np.clip((decibels - decibels.max()) / RANGE + 1, 0, 1).T[::-1]
    anchors = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(share, anchors, COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, -1).astype(np.uint8)


def write_spectrograms(path: Path, rows: Sequence[tuple[str, Sequence[Samples]]]) -> None:
    """A picture of titled rows of clips side by side."""
    drawn = [(title, [spectrogram(samples) for samples in clips]) for title, clips in rows]
    columns = max(len(pictures) for _, pictures in drawn)
    widths = [max(pictures[i].shape[1] for _, pictures in drawn if i < len(pictures)) for i in range(columns)]
    height = TITLE + ROWS + MARGIN
    sheet = Image.new("RGB", (sum(widths) + MARGIN * (columns + 1), height * len(drawn) + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (title, pictures) in enumerate(drawn):
        left, top = MARGIN, MARGIN + row * height
        draw.text((left, top), title, fill="black")
        for picture, width in zip(pictures, widths, strict=False):
            sheet.paste(Image.fromarray(picture), (left, top + TITLE))
            left += width + MARGIN
    sheet.quantize(SHADES).save(path, optimize=True)
