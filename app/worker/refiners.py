"""Which lanes a latent model has for what improves its latents: one that samples by its critic, one that inpaints.

Both go through the network as it was loaded, in float32: a copy of its own, beside what was prepared for serving.
"""

import dataclasses
import logging

from torch import nn

from app.engine.jobs import ModelInfo, inpainter_of, sampler_of
from app.worker.device import is_lost
from app.worker.inpainting import InpaintingRunner
from app.worker.langevin import LangevinRunner
from app.worker.refiner import RefiningRunner
from app.worker.refining import RefiningBatcher
from app.worker.runner import LatentRunner, ModelFault
from models.critic import Critic
from models.protocols import CodeModel, LatentModel, StyledModel
from models.tensors import tensor_bytes

log = logging.getLogger("genserve.worker")


def refining_lanes(
    model: LatentModel, critic: Critic | None, decoder: LatentRunner, info: ModelInfo, max_batch: int
) -> tuple[dict[str, RefiningBatcher], ModelInfo]:
    """Lanes by name, warmed up, and what they add to the description of their model.

    Args:
        model: in evaluation mode and float32, on the device of its decoder.
        critic: that belongs to it, if any.
        decoder: of the same model, warmed up.
        info: the description so far.
        max_batch: largest batch to try.

    Raises:
        ModelFault: there is a critic, and it can't be followed.
        DeviceLost, Exception: whatever the critic raises.
    """
    device = decoder.device
    lanes: dict[str, RefiningBatcher] = {}
    if critic is not None:
        critic = dataclasses.replace(critic, network=critic.network.to(device))
        _check_sampled(model)
        sampler = LangevinRunner(model, critic, decoder, device, max_batch)
        lanes[sampler_of(info.name)] = RefiningBatcher(sampler)
        info = dataclasses.replace(info, sample_seconds=_row_seconds(sampler))
    if (inpainter := _inpainter(model, critic, decoder, info.name, max_batch)) is not None:
        lanes[inpainter_of(info.name)] = RefiningBatcher(inpainter)
        info = dataclasses.replace(info, inpaint_seconds=_row_seconds(inpainter))
    return lanes, dataclasses.replace(info, memory_bytes=info.memory_bytes + _bytes(lanes, model, critic))


def _check_sampled(model: LatentModel) -> None:
    """Refuse a critic beside a model whose latents are not the standard normal ones that a sampler supposes."""
    if isinstance(model, StyledModel | CodeModel):
        raise ModelFault("a critic belongs to a model with standard normal latents, which this one has not")


def _inpainter(
    model: LatentModel, critic: Critic | None, decoder: LatentRunner, name: str, max_batch: int
) -> InpaintingRunner | None:
    """None for a network without gradients, which nobody has promised."""
    if isinstance(model, CodeModel):
        return None
    try:
        return InpaintingRunner(model, critic, decoder, decoder.device, max_batch)
    except Exception as error:  # a network that was only meant to run forwards may raise anything
        if is_lost(error, decoder.device):
            raise
        log.info("%s can't be inpainted: %r", name, error)
        return None


def _row_seconds(runner: RefiningRunner) -> float:
    return runner.seconds[-1] / runner.buckets[-1]


def _bytes(lanes: dict[str, RefiningBatcher], model: LatentModel, critic: Critic | None) -> int:
    assert isinstance(model, nn.Module)
    own = tensor_bytes(model) if lanes else 0
    return own + (0 if critic is None else tensor_bytes(critic.network))
