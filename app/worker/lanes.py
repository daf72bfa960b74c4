"""One weights folder to lanes: verified, in its precision on the device, measured and warmed up.

Knows what each protocol needs of a model; knows nothing of the other models, nor of requests.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from app.dtypes import Dtypes
from app.engine.jobs import MAX_STYLES, ModelInfo, WorkerConfig, encoder_of
from app.text import Tokenizer
from app.worker import decoders, precisions
from app.worker.continuous import ContinuousBatcher
from app.worker.device import is_lost
from app.worker.dynamic import DynamicBatcher
from app.worker.encoder import EncodingRunner
from app.worker.faults import DeviceLost, RegistryError
from app.worker.grammars import Grammars
from app.worker.memory import slots_that_fit
from app.worker.pace import SAMPLE_STEPS
from app.worker.refiners import refining_lanes
from app.worker.refining import RefiningBatcher
from app.worker.runner import LatentRunner, ModelFault
from app.worker.sequences import SequenceRunner, state_bytes
from app.worker.threads import compute_threads, on_threads, sequence_threads
from models import checkpoint, controls, precision
from models.calibration import SAMPLE
from models.checkpoint import Checkpoint
from models.config import TokenizerFile, read_config
from models.critic import Critic
from models.errors import CheckpointError
from models.files import TEMPLATE_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from models.precision import PACKED_ONLY, TORCH_DTYPES, Precision, PrecisionError
from models.protocols import CodeModel, EncodingModel, LatentModel, SequenceModel, StyledModel
from models.tensors import tensor_bytes

Lane = DynamicBatcher | ContinuousBatcher | RefiningBatcher


def load(
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
    slots = slots_that_fit(info.name, state_bytes(model.init_state(1)), device, config.max_slots, config.memory_limit)
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
