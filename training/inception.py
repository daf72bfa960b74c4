"""The standard Inception FID, with a network that the user brings.

It takes the TorchScript file of the original Inception-v3 that NVIDIA published beside StyleGAN
(`inception-2015-12-05.pt`): the file carries the network's code and the resizing to 299x299 that the published figures
were computed with, so that neither is written anew here. TorchScript is code, though limited to tensor operations: this
is a tool for use offline, with a file that the user trusts. The service never loads one.
"""

import hashlib
import io
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training import metrics
from training.errors import TrainingError
from training.pictures import to_levels

BATCH = 50
MAX_BYTES = 1 << 30  # the file has 96 MB


class Inception:
    """The network of a TorchScript file, and the features that it gives."""

    def __init__(self, path: Path) -> None:
        """Load the file, onto the CPU.

        Raises:
            TrainingError: the file is missing, too large, or is not TorchScript.
        """
        if not path.is_file():
            raise TrainingError(f"--inception {path}: no such file")
        if path.stat().st_size > MAX_BYTES:
            raise TrainingError(f"--inception {path}: larger than {MAX_BYTES >> 20} MiB")
        content = path.read_bytes()
        self.digest = hashlib.sha256(content).hexdigest()
        self._network = _load(path, content)

    @torch.no_grad()
    def features(self, samples: Tensor) -> NDArray[np.float64]:
        """Pictures [N, 1 or 3, H, W] in [-1, 1] -> [N, D]; grey ones go in as three equal channels of 0..255.

        Raises:
            TrainingError: the network does not take such pictures, or does not give features of them.
        """
        found = [self._look(chunk) for chunk in torch.split(to_levels(samples), BATCH)]
        return torch.cat(found).double().numpy()

    def distance(self, samples: Tensor, real: Tensor) -> float:
        """Frechet distance (Heusel et al. 2017) between the features of two sets of pictures."""
        return metrics.frechet_distance(self.features(samples), self.features(real))

    def _look(self, levels: Tensor) -> Tensor:
        three = levels.expand(-1, 3, -1, -1) if levels.shape[1] == 1 else levels
        try:
            found = self._network(three, return_features=True)
        except (RuntimeError, ValueError) as error:
            raise TrainingError(f"--inception: the network fails on pictures {list(three.shape)}: {error}") from error
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(levels):
            raise TrainingError("--inception: the network gives no features [N, D]: not the file that is meant")
        return found


def _load(path: Path, content: bytes) -> torch.jit.ScriptModule:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch deprecates the format that the world has
            return torch.jit.load(io.BytesIO(content), map_location="cpu").eval()  # type: ignore[no-untyped-call,no-any-return]
    except (RuntimeError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise TrainingError(
            f"--inception {path}: not TorchScript ({said}); inception-2015-12-05.pt is meant, not a state dict"
        ) from error
