"""What models take of a device's memory, told before they are loaded, and what there is of it.

Knows weights folders by their configuration only; loads nothing.
"""

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from app.dtypes import Dtypes
from app.worker import precisions
from app.worker.faults import RegistryError
from models import LATENT_MODELS
from models.config import Kind, ModelConfig, read_config
from models.errors import CheckpointError
from models.precision import Precision

LATENT_BYTES_A_PARAMETER = 4  # weights are stored in fp16 and served in fp32 or less
# Of a sequence model's weight; more than its bits, since a head that is the embedding is packed besides.
BYTES_A_PARAMETER: dict[Precision, float] = {"fp32": 5, "bf16": 2.5, "int8": 2.5, "int4": 2.25}
# Beyond that, of the model that is being verified, converted and packed; the file of a sequence model is mapped.
LOADING_BYTES_A_PARAMETER: dict[Kind, int] = {"latent": 12, "sequence": 4}
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
CGROUP_USED = Path("/sys/fs/cgroup/memory.current")

log = logging.getLogger("genserve.worker")


def available_bytes(device: torch.device) -> int:
    """Free memory of the device; on the CPU, what the system and the control group leave."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else ():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError):  # no such control group, or "max": no limit
        free = min(free, int(CGROUP_LIMIT.read_text()) - int(CGROUP_USED.read_text()))
    return free


def check(needs: Sequence[tuple[str, int]], device: torch.device, limit: int) -> None:
    """Refuse, with a table, what would not fit; activations are not foreseen and stay small at these batch sizes.

    Raises:
        RegistryError: it does not fit on the device, or in `limit` bytes (0: no limit) of it.
    """
    needed, free = sum(size for _, size in needs), _free_bytes(device, limit)
    if needed > free:
        table = "\n".join(f"  {name:<32} {size / 2**20:10.1f} MiB" for name, size in needs)
        raise RegistryError(
            f"the models do not fit on {device}:\n{table}\n"
            f"  {'needed':<32} {needed / 2**20:10.1f} MiB\n  {'available':<32} {free / 2**20:10.1f} MiB"
        )


def needed_by(folders: Sequence[Path], dtypes: Dtypes, device: torch.device) -> list[tuple[str, int]]:
    """Bytes for each model of these folders, by name, and for loading the largest.

    Raises:
        RegistryError: a configuration can't be read.
    """
    try:
        configs = {folder.name: read_config(folder) for folder in folders}
    except CheckpointError as error:
        raise RegistryError(str(error)) from error
    needed = [(name, _bytes_needed(name, model, dtypes, device)) for name, model in configs.items()]
    loading = [config.size // 2 * LOADING_BYTES_A_PARAMETER[config.kind] for config in configs.values()]
    return [*needed, ("(while loading the largest)", max(loading, default=0))]


def slots_that_fit(name: str, size: int, device: torch.device, most: int, limit: int) -> int:
    """How many slots of so many bytes there is memory for, up to so many; said where that is fewer.

    Raises:
        RegistryError: not even one fits.
    """
    check([(f"{name}, one slot", size)], device, limit)
    fit = _free_bytes(device, limit) // max(1, size)
    if fit < most:
        log.warning("%s: %d slots of %.0f MiB fit, not %d", name, fit, size / 2**20, most)
    return min(fit, most)


def _free_bytes(device: torch.device, limit: int) -> int:
    """What the device has left, or what the operator allows where that is less."""
    free = available_bytes(device)
    return min(limit, free) if limit else free


def _bytes_needed(name: str, config: ModelConfig, dtypes: Dtypes, device: torch.device) -> int:
    """Bytes of the served weights, at most."""
    parameters = config.size // 2  # stored in 16 bits
    if config.kind == "latent":
        critic = 0 if config.critic is None else config.critic.size // 2
        return (parameters * _copies(config.architecture) + critic) * LATENT_BYTES_A_PARAMETER
    return int(parameters * BYTES_A_PARAMETER[precisions.resolve(dtypes.of(name), device)])


def _copies(architecture: str) -> int:
    """How often a model of this architecture is kept: prepared to decode, as it is for gradients, and to encode."""
    return 3 if hasattr(LATENT_MODELS.get(architecture), "encode") else 2
