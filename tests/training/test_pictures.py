import io

import numpy as np
import pytest
import torch
from PIL import Image

from training.errors import TrainingError
from training.pictures import write_grid


def read(path):
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        return picture.mode, np.asarray(picture)


def test_pictures_lie_row_by_row(tmp_path):
    samples = torch.full((6, 1, 2, 3), -1.0)
    samples[1] = 1.0  # first row, second column
    samples[4, 0, 0, 0] = 0.0  # second row, second column, one pixel
    write_grid(tmp_path / "new" / "grid.png", samples, columns=3)
    mode, pixels = read(tmp_path / "new" / "grid.png")
    assert mode == "L"
    assert pixels.shape == (4, 9)
    assert (pixels[:2, 3:6] == 255).all()
    assert pixels[2, 3] == 128
    assert pixels.astype(int).sum() == 6 * 255 + 128


@pytest.mark.parametrize(("channels", "mode"), [(3, "RGB"), (4, "RGBA")])
def test_colour(tmp_path, channels, mode):
    write_grid(tmp_path / "grid.png", torch.ones(1, channels, 2, 2), columns=1)
    found, pixels = read(tmp_path / "grid.png")
    assert found == mode
    assert pixels.shape == (2, 2, channels)


@pytest.mark.parametrize(("shape", "columns"), [((2, 2, 4, 4), 1), ((3, 1, 4, 4), 2)])
def test_what_makes_no_grid_is_refused(tmp_path, shape, columns):
    with pytest.raises(TrainingError, match="no grid"):
        write_grid(tmp_path / "grid.png", torch.zeros(shape), columns)
