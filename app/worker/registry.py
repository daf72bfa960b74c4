"""From a folder of weights folders to loaded, verified and warmed lanes, or to one clear refusal.

Knows files, devices and memory; knows nothing of requests.
"""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from app.dtypes import Dtypes, parse
from app.engine.jobs import MAX_STYLES, ModelInfo, Runtime, WorkerConfig, encoder_of
from app.text import Tokenizer
from app.worker import decoders, precisions
from app.worker.continuous import ContinuousBatcher
from app.worker.device import is_lost
from app.worker.dynamic import DynamicBatcher
from app.worker.encoder import EncodingRunner
from app.worker.faults import DeviceLost
from app.worker.grammars import Grammars
from app.worker.pace import SAMPLE_STEPS
from app.worker.refiners import refining_lanes
from app.worker.refining import RefiningBatcher
from app.worker.runner import LatentRunner, ModelFault
from app.worker.sequences import SequenceRunner, state_bytes
from app.worker.threads import compute_with, on_threads
from models import LATENT_MODELS, checkpoint, controls, precision
from models.architecture import import_extra_models
from models.calibration import SAMPLE
from models.checkpoint import Checkpoint
from models.config import Kind, ModelConfig, TokenizerFile, read_config
from models.critic import Critic
from models.errors import CheckpointError
from models.files import CONFIG_FILE, TEMPLATE_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from models.precision import PACKED_ONLY, TORCH_DTYPES, Precision, PrecisionError
from models.protocols import CodeModel, EncodingModel, LatentModel, SequenceModel, StyledModel
from models.tensors import tensor_bytes

LATENT_BYTES_A_PARAMETER = 4  # weights are stored in fp16 and served in fp32 or less
# Of a sequence model's weight; more than its bits, since a head that is the embedding is packed besides.
BYTES_A_PARAMETER: dict[Precision, float] = {"fp32": 5, "bf16": 2.5, "int8": 2.5, "int4": 2.25}
# Beyond that, of the model that is being verified, converted and packed; the file of a sequence model is mapped.
LOADING_BYTES_A_PARAMETER: dict[Kind, int] = {"latent": 12, "sequence": 4}
ALL_THREADS_PARAMETERS = 1 << 25  # from here on one step takes every core
ORDER_FILE = "order.txt"  # beside the weights folders: names of models that come first, one a line
MAX_ORDER = 1 << 16  # bytes of it
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
CGROUP_USED = Path("/sys/fs/cgroup/memory.current")

Lane = DynamicBatcher | ContinuousBatcher | RefiningBatcher

log = logging.getLogger("genserve.worker")


class RegistryError(Exception):
    """The models can't be served; the message says which and why."""


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
    folders = find_folders(Path(config.weights), config.models)
    broken = {} if not config.skip_broken else _broken(folders)
    dtypes = _dtypes(config, [folder.name for folder in folders])
    folders = [folder for folder in folders if folder.name not in broken]
    _check_memory(_weights_needed(folders, dtypes, device), device, config.memory_limit)
    lanes: dict[str, Lane] = {}
    infos = [ModelInfo(name=name, error=error) for name, error in broken.items()]
    for folder in folders:
        try:
            own, info = _load_lanes(folder, device, config, dtypes, partial(interrupted, folder.name))
            lanes |= own
        except PrecisionError as error:
            raise RegistryError(str(error)) from error
        except (CheckpointError, ModelFault) as error:
            if not config.skip_broken:
                raise RegistryError(str(error)) from error
            log.error("skipped: %s", error)
            info = ModelInfo(name=folder.name, error=str(error))
        infos.append(info)
    try:
        infos = decoders.joined(infos, skip=config.skip_broken)
    except ModelFault as error:
        raise RegistryError(str(error)) from error
    if not lanes:
        raise RegistryError(f"{config.weights}: no model could be loaded")
    return Loaded(lanes, infos, describe(device), threads)


def find_folders(weights: Path, names: tuple[str, ...]) -> list[Path]:
    """Weights folders in the order of these names; all of them when there are none, those of `ORDER_FILE` first.

    The first model of a kind is the one that a request without a name gets.

    Raises:
        RegistryError: the folder, or a folder of a given name, does not exist, or there is none at all.
    """
    try:
        found = {path.name: path for path in sorted(weights.iterdir()) if (path / CONFIG_FILE).is_file()}
    except OSError as error:
        raise RegistryError(f"{weights}: the folder of weights can't be read: {error.strerror}") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise RegistryError(f"{weights}: no weights folder {', '.join(missing)} (found: {', '.join(found) or 'none'})")
    if not found:
        raise RegistryError(f"{weights}: holds no weights folder (a folder with a {CONFIG_FILE})")
    return [found[name] for name in dict.fromkeys(names or [*_first(weights, found), *found])]


def _first(weights: Path, found: Collection[str]) -> list[str]:
    """The names that a folder of weights wants first; one that is not there is passed over, so that it may be removed.

    Raises:
        RegistryError: the file can't be read, or is too large to be a list of names.
    """
    path = weights / ORDER_FILE
    try:
        with path.open("rb") as file:
            content = file.read(MAX_ORDER + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RegistryError(f"{path}: can't be read: {error.strerror}") from error
    if len(content) > MAX_ORDER:
        raise RegistryError(f"{path}: more than {MAX_ORDER} bytes; it holds names, one a line")
    return [name for name in content.decode(errors="replace").split() if name in found]


def resolve_device(name: str) -> torch.device:
    """A usable torch device; "auto" is CUDA when there is one.

    Raises:
        RegistryError: CUDA was asked for and is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise RegistryError(f"device {name}: this torch ({torch.__version__}) sees no CUDA device")
        if (device.index or 0) >= torch.cuda.device_count():
            raise RegistryError(f"device {name}: only {torch.cuda.device_count()} CUDA devices are there")
        torch.backends.cudnn.deterministic = True  # the same bits for the same batch, run after run
        torch.backends.cudnn.benchmark = False
    return device


def describe(device: torch.device) -> Runtime:
    """What decides the bits of an output besides the model."""
    kind = "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)
    return Runtime(kind, torch.__version__)


def compute_threads(config: WorkerConfig, device: torch.device) -> int:
    """Threads that compute: as configured, or one a core; a GPU is fed by one."""
    if device.type != "cpu":
        return 1
    return config.threads or len(os.sched_getaffinity(0))


def sequence_threads(parameters: int, threads: int) -> int:
    """Threads that compute one step of a sequence model, out of so many.

    Threads of one product wait for each other at barriers: with none left for HTTP, all of them would wait for it. A
    large network's products are long beside that. Told by size, never by a measurement: threads decide bits.
    """
    return threads if parameters >= ALL_THREADS_PARAMETERS else max(1, threads - 1)


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


def _broken(folders: list[Path]) -> dict[str, str]:
    """Folders whose configuration can't be read, by name."""
    out = {}
    for folder in folders:
        try:
            read_config(folder)
        except CheckpointError as error:
            log.error("skipped: %s", error)
            out[folder.name] = str(error)
    return out


def _check_memory(needs: list[tuple[str, int]], device: torch.device, limit: int) -> None:
    """Refuse, with a table, what would not fit; activations are not foreseen and stay small at these batch sizes."""
    needed, free = sum(size for _, size in needs), _free_bytes(device, limit)
    if needed > free:
        table = "\n".join(f"  {name:<32} {size / 2**20:10.1f} MiB" for name, size in needs)
        raise RegistryError(
            f"the models do not fit on {device}:\n{table}\n"
            f"  {'needed':<32} {needed / 2**20:10.1f} MiB\n  {'available':<32} {free / 2**20:10.1f} MiB"
        )


def _free_bytes(device: torch.device, limit: int) -> int:
    """What the device has left, or what the operator allows where that is less."""
    free = available_bytes(device)
    return min(limit, free) if limit else free


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


def _weights_needed(folders: list[Path], dtypes: Dtypes, device: torch.device) -> list[tuple[str, int]]:
    try:
        configs = {folder.name: read_config(folder) for folder in folders}
    except CheckpointError as error:
        raise RegistryError(str(error)) from error
    needed = [(name, _bytes_needed(name, model, dtypes, device)) for name, model in configs.items()]
    loading = [config.size // 2 * LOADING_BYTES_A_PARAMETER[config.kind] for config in configs.values()]
    return [*needed, ("(while loading the largest)", max(loading, default=0))]


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


def _load_lanes(
    folder: Path, device: torch.device, config: WorkerConfig, dtypes: Dtypes, interrupted: Callable[[], bool]
) -> tuple[dict[str, Lane], ModelInfo]:
    """One model: verified, on the device, warmed up; its lanes by name, its encoder's among them.

    Raises:
        CheckpointError, ModelFault: the folder is broken, or its network does not do what its protocol promises.
        PrecisionError: it can't be served in the precision that was asked for.
        DeviceLost: no other model can be loaded either.
    """
    loaded = checkpoint.load(folder, as_stored=read_config(folder).kind == "sequence")
    described = ModelInfo(
        name=loaded.name,
        kind=loaded.config.kind,
        architecture=loaded.config.architecture,
        digest=loaded.config.digest,
        parameters=loaded.parameters,
        created=int((folder / WEIGHTS_FILE).stat().st_mtime),
        labels=loaded.config.labels,
        output=loaded.config.output,
        controls=loaded.config.controls,
        critic="" if loaded.config.critic is None else loaded.config.critic.sha256,
        card=loaded.config.card,
    )
    try:
        if loaded.config.kind == "latent":
            chosen = precisions.for_pictures(dtypes, loaded.name, device)
            critic = checkpoint.load_critic(folder, loaded.config)
            return _latent_lanes(loaded.model.to(device), critic, described, device, config, chosen)
        chosen = precisions.for_text(dtypes, loaded.name, loaded.model, device)
        precisions.check_card(loaded.name, chosen, loaded.config.card)
        lane, info = _sequence_lane(loaded, described, device, config, chosen, interrupted, folder)
        return {info.name: lane}, info
    except (RegistryError, PrecisionError, CheckpointError):
        raise
    except Exception as error:  # the network, the operator's own among them, may raise anything
        if is_lost(error, device):
            raise DeviceLost(f"{folder}: {error}") from error
        raise ModelFault(f"{folder}: {error}") from error


def _latent_lanes(
    model: nn.Module,
    critic: Critic | None,
    info: ModelInfo,
    device: torch.device,
    config: WorkerConfig,
    chosen: Precision,
) -> tuple[dict[str, Lane], ModelInfo]:
    _check_attributes(model, info)
    assert isinstance(model, LatentModel)
    threads = compute_threads(config, device)
    runner = LatentRunner(model, device, config.max_batch, TORCH_DTYPES[chosen], threads)
    whole = tensor_bytes(model)
    measured = dataclasses.replace(
        info,
        threads=runner.threads,
        dtype=str(runner.dtype).removeprefix("torch."),
        memory_bytes=whole * runner.dtype.itemsize // torch.float32.itemsize,
        latent_shape=tuple(model.latent_shape),
        styles=model.styles if isinstance(model, StyledModel) else 0,
        num_classes=model.num_classes,
        codes=model.num_codes if isinstance(model, CodeModel) else 0,
        image_shape=runner.image_shape,
        buckets=runner.buckets,
        seconds=runner.seconds,
    )
    refining, measured = refining_lanes(model, critic, runner, measured, config.max_batch)
    lanes: dict[str, Lane] = {info.name: DynamicBatcher(runner, alone=runner.threads > 1), **refining}
    if not isinstance(model, EncodingModel):
        return lanes, measured
    encoder = EncodingRunner(model, runner, device, config.max_batch, threads)
    lanes[encoder_of(info.name)] = DynamicBatcher(encoder, alone=encoder.threads > 1)
    return lanes, dataclasses.replace(
        measured,
        memory_bytes=measured.memory_bytes + whole,  # of a copy of its own
        encode_buckets=encoder.buckets,
        encode_seconds=encoder.seconds,
        encode_threads=encoder.threads,
    )


def _check_attributes(model: nn.Module, info: ModelInfo) -> None:
    """Refuse a latent model that contradicts its protocol, or its folder."""
    if not isinstance(model, LatentModel):
        raise ModelFault(f"{info.architecture} lacks latent_shape, num_classes or decode")
    if info.labels and len(info.labels) != model.num_classes:
        raise ModelFault(f"{len(info.labels)} labels where the network has {model.num_classes} classes")
    controls.check_latent(info.controls, model.latent_shape)
    if isinstance(model, StyledModel):
        shape, styles = tuple(model.latent_shape), model.styles
        if not 2 <= styles <= MAX_STYLES or len(shape) != 2 or shape[0] != styles:
            raise ModelFault(f"{styles} styles with latents of shape {list(shape)}; [styles, dim] expected")


def _sequence_lane(
    loaded: Checkpoint,
    info: ModelInfo,
    device: torch.device,
    config: WorkerConfig,
    chosen: Precision,
    interrupted: Callable[[], bool],
    folder: Path,
) -> tuple[Lane, ModelInfo]:
    tokenizer = _read_tokenizer(loaded, info, folder)
    threads = sequence_threads(info.parameters, compute_threads(config, device))
    texts = info.task == "text"
    sample = tokenizer.encode(SAMPLE) if tokenizer is not None and chosen in PACKED_ONLY and texts else []
    model = on_threads(threads, lambda: _in_precision(loaded.model, chosen, sample, device))
    slots = _slots_that_fit(info.name, state_bytes(model.init_state(1)), device, config)
    runner = SequenceRunner(model, device, slots, threads)
    template = loaded.config.chat_template
    measured = dataclasses.replace(
        info,
        threads=threads,
        dtype=precision.NAMES[chosen],
        memory_bytes=precision.packed_bytes(loaded.model) + runner.state_bytes,
        vocab_size=model.vocab_size,
        max_length=model.max_length,
        slots=runner.slots,
        buckets=runner.buckets,
        seconds=(runner.step_seconds,),
        condition_length=runner.condition_length,
        **_tokenizer_fields(loaded.config.tokenizer, folder),
        chat_template="" if template is None else str(folder / TEMPLATE_FILE),
    )
    decoders.check_output(measured)
    if not texts:
        return ContinuousBatcher(runner, interrupted, most_steps=SAMPLE_STEPS), measured
    grammars = Grammars(folder / TOKENIZER_FILE, model.vocab_size, measured.stop_tokens)
    return ContinuousBatcher(runner, interrupted, grammars), measured


def _tokenizer_fields(tokenizer: TokenizerFile | None, folder: Path) -> dict[str, Any]:
    """What a description says of a tokenizer; nothing where there is none."""
    if tokenizer is None:
        return {}
    stops = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    return {
        "tokenizer": str(folder / TOKENIZER_FILE),
        "stop_tokens": tuple(dict.fromkeys((*stops, *tokenizer.stop_token_ids))),
        "start_tokens": tokenizer.start_token_ids,
    }


def _slots_that_fit(name: str, size: int, device: torch.device, config: WorkerConfig) -> int:
    """How many slots of so many bytes there is memory for, up to what was asked for; said where that is fewer.

    Raises:
        RegistryError: not even one fits.
    """
    _check_memory([(f"{name}, one slot", size)], device, config.memory_limit)
    fit = _free_bytes(device, config.memory_limit) // max(1, size)
    if fit < config.max_slots:
        log.warning("%s: %d slots of %.0f MiB fit, not %d", name, fit, size / 2**20, config.max_slots)
    return min(fit, config.max_slots)


def _read_tokenizer(loaded: Checkpoint, info: ModelInfo, folder: Path) -> Tokenizer | None:
    """The tokenizer of a sequence model, if it has one; what is no such model, or can't take its tokens, is refused."""
    model, file = loaded.model, loaded.config.tokenizer
    if not isinstance(model, SequenceModel):
        raise ModelFault(f"{info.architecture} lacks vocab_size, max_length, init_state, prefill or step")
    if file is None and info.task == "speech":
        return None
    if file is None:
        raise ModelFault("a sequence model needs a tokenizer.json")
    tokenizer = Tokenizer(folder / TOKENIZER_FILE)
    if tokenizer.ids > model.vocab_size:
        raise ModelFault(
            f"{TOKENIZER_FILE} has token ids up to {tokenizer.ids - 1}; the network knows {model.vocab_size}"
        )
    return tokenizer


def _in_precision(
    network: nn.Module, chosen: Precision, sample: Sequence[int], device: torch.device
) -> SequenceModel[Any]:
    """The network as it is served: packed for a CPU, where it is a language model of the known shape."""
    if device.type == "cpu" and precision.is_packable(network):
        precision.pack(network, chosen, sample)
    network.to(device, TORCH_DTYPES[chosen])
    assert isinstance(network, SequenceModel)
    return network
