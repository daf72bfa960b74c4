"""From a folder of weights folders to loaded, verified and warmed lanes, or to one clear refusal.

Knows in which order that goes and what is refused; knows nothing of requests.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from app.dtypes import Dtypes, parse
from app.engine.jobs import ModelInfo, Runtime, WorkerConfig
from app.worker import decoders, lanes, memory, precisions
from app.worker.device import describe, resolve_device
from app.worker.faults import RegistryError
from app.worker.folders import broken_folders, find_folders
from app.worker.lanes import Lane
from app.worker.runner import ModelFault
from app.worker.threads import compute_threads, compute_with
from models.architecture import import_extra_models
from models.errors import CheckpointError
from models.precision import PrecisionError

log = logging.getLogger("genserve.worker")


@dataclass(frozen=True)
class Loaded:
    """What a worker serves: lanes of each good model, a description of every model, and its compute threads."""

    lanes: dict[str, Lane]
    models: list[ModelInfo]
    runtime: Runtime
    threads: int


def load(config: WorkerConfig, interrupted: Callable[[str], bool] = lambda _: False) -> Loaded:
    """Find, verify, load and warm up the models that the configuration asks for.

    `interrupted` tells a lane by its name, during a tick that it may end early, that other work has arrived.

    Raises:
        RegistryError: no models, a broken one (unless `skip_broken`), no such device, or not enough memory.
        DeviceLost: a network has made the device unusable.
    """
    device = resolve_device(config.device)
    threads = compute_threads(config, device)
    compute_with(1)  # what this thread does itself: it leads no others
    try:
        if config.models_module:
            import_extra_models(config.models_module)
    except CheckpointError as error:
        raise RegistryError(str(error)) from error
    found = find_folders(Path(config.weights), config.models)
    broken = {} if not config.skip_broken else broken_folders(found)
    dtypes = _dtypes(config, [folder.name for folder in found])
    folders = [folder for folder in found if folder.name not in broken]
    memory.check(memory.needed_by(folders, dtypes, device), device, config.memory_limit)
    served, infos = _load_each(folders, device, config, dtypes, interrupted)
    infos = [*(ModelInfo(name=name, error=error) for name, error in broken.items()), *infos]
    try:
        infos = decoders.joined(infos, skip=config.skip_broken)
    except ModelFault as error:
        raise RegistryError(str(error)) from error
    failed = {info.name for info in infos if info.error is not None}
    served = {name: lane for name, lane in served.items() if name.partition("/")[0] not in failed}
    if not served:
        raise RegistryError(f"{config.weights}: no model could be loaded")
    return Loaded(served, infos, describe(device), threads)


def _load_each(
    folders: Sequence[Path],
    device: torch.device,
    config: WorkerConfig,
    dtypes: Dtypes,
    interrupted: Callable[[str], bool],
) -> tuple[dict[str, Lane], list[ModelInfo]]:
    """Lanes by name, and what each folder holds; a broken one is passed over where that is wanted.

    Raises:
        RegistryError: one is broken, or can't be served in the precision that was asked for.
        DeviceLost: a network has made the device unusable.
    """
    served: dict[str, Lane] = {}
    infos: list[ModelInfo] = []
    for folder in folders:
        try:
            own, info = lanes.load(folder, device, config, dtypes, partial(interrupted, folder.name))
            served |= own
        except PrecisionError as error:
            raise RegistryError(str(error)) from error
        except (CheckpointError, ModelFault) as error:
            if not config.skip_broken:
                raise RegistryError(str(error)) from error
            log.error("skipped: %s", error)
            info = ModelInfo(name=folder.name, error=str(error))
        infos.append(info)
    return served, infos


def _dtypes(config: WorkerConfig, served: Collection[str]) -> Dtypes:
    """The precisions that were asked for.

    Raises:
        RegistryError: they can't be read, or one is for a model that is not served.
    """
    try:
        dtypes = parse(config.dtype)
        precisions.check_names(dtypes, served)
    except (ValueError, PrecisionError) as error:
        raise RegistryError(str(error)) from error
    return dtypes
