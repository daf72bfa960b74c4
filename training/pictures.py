"""Sample grids as PNG files."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from models.files import write_atomically
from training.errors import TrainingError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def grid_png(samples: Tensor, columns: int) -> bytes:
    """Pictures [N, C, H, W] in [-1, 1] as one PNG, `columns` in a row, pixel by pixel.

    Raises:
        TrainingError: C is not 1, 3 or 4, or N is not a multiple of `columns`.
    """
    count, channels, height, width = samples.shape
    if channels not in MODES or count % columns:
        raise TrainingError(f"no grid of {columns} columns can be made of pictures {list(samples.shape)}")
    rows = to_levels(samples).numpy().reshape(count // columns, columns, channels, height, width)
    grid = rows.transpose(0, 3, 1, 4, 2).reshape(count // columns * height, columns * width, channels)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(grid.squeeze(2) if channels == 1 else grid), MODES[channels]).save(
        buffer, "PNG", optimize=True
    )
    return buffer.getvalue()


def write_grid(path: Path, samples: Tensor, columns: int) -> None:
    """Write pictures [N, C, H, W] in [-1, 1] as one PNG, `columns` in a row.

    Raises:
        TrainingError: C is not 1, 3 or 4, or N is not a multiple of `columns`.
    """
    content = grid_png(samples, columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)


def to_levels(samples: Tensor) -> Tensor:
    """Pictures in [-1, 1] as the levels 0..255 that a PNG holds, uint8 on the CPU."""
    return ((samples.clamp(-1, 1) + 1) * 127.5).round().byte().cpu()
