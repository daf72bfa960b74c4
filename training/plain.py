"""Files of `torch.save`, read so that no code in them can run."""

import pickle
import warnings
from pathlib import Path

import torch

from training.errors import TrainingError


def load_plain(path: Path) -> object:
    """What a file holds, on the CPU: tensors and plain values, nothing else (`weights_only=True`).

    Raises:
        TrainingError: the file is damaged, was not written by `torch.save`, or holds anything that would run code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of foreign pickles that it then refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TrainingError(
            f"{path}: damaged, or holds more than tensors and plain values, which is never loaded "
            f"(save model.state_dict(), not the model)"
        ) from error
    # a damaged file can make the reader fail in almost any way
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrainingError(f"{path}: damaged, or not a file of torch.save: {said}") from error
