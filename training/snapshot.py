"""Training checkpoints: everything that the next step depends on, in one file, written whole or not at all.

Knows state dicts and random generators; knows nothing of objectives. It holds tensors
and plain values alone, so a snapshot from a stranger can't run code.
"""

import io
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.files import write_atomically
from training.errors import TrainingError
from training.plain import load_plain

FORMAT = 1


def save_snapshot(path: Path, state: Mapping[str, Any]) -> None:
    """Write a snapshot and the state of every random generator: temporary file, fsync, rename."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "random": _random_state(), **state}, buffer)
    write_atomically(path, buffer.getvalue())


def load_snapshot(path: Path) -> dict[str, Any]:
    """Read a snapshot, on the CPU; `restore_random` then puts the random generators back.

    Raises:
        TrainingError: the file is missing, is damaged, or is not a snapshot of this format.
    """
    if not path.is_file():
        raise TrainingError(f"{path}: no snapshot to resume from")
    state = load_plain(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise TrainingError(f"{path}: not a snapshot of format {FORMAT}")
    return state


def _random_state() -> dict[str, Any]:
    algorithm, keys, *rest = np.random.get_state()  # the global generator is what has to be kept
    return {
        "python": random.getstate(),
        "numpy": (algorithm, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random(state: Mapping[str, Any]) -> None:
    """Put the generators of python, numpy and torch back to where a snapshot found them."""
    saved = state["random"]
    random.setstate(saved["python"])
    algorithm, keys, *rest = saved["numpy"]
    np.random.set_state((algorithm, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(saved["torch"])
    if torch.cuda.is_available() and saved["cuda"]:
        torch.cuda.set_rng_state_all(saved["cuda"])
