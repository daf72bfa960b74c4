"""Which precision a model is served in on a device: what the operator asks for, where it can be had.

Knows names, precisions, devices and what a card says; knows nothing of files or requests.
"""

import logging
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from app.dtypes import Dtype, Dtypes
from app.worker import packing
from models.precision import PACKED_ONLY, Precision, PrecisionError, is_packable

log = logging.getLogger("genserve.worker")


def resolve(name: Dtype, device: torch.device) -> Precision:
    """What "auto" means on a device: bf16 on a CPU that multiplies it in hardware, else fp32."""
    if name != "auto":
        return name
    return "bf16" if device.type == "cpu" and packing.has_fast_bf16() else "fp32"


def check_names(dtypes: Dtypes, served: Collection[str]) -> None:
    """Refuse a precision for a model that nobody asked to serve.

    Raises:
        PrecisionError: the message names it.
    """
    if missing := [name for name in dtypes.named if name not in served]:
        raise PrecisionError(f"dtype: no model {', '.join(missing)} is served (served: {', '.join(served)})")


def for_pictures(dtypes: Dtypes, name: str, device: torch.device) -> Precision:
    """The precision of a latent model; few bits that are meant for all models are not meant for pictures.

    Raises:
        PrecisionError: few bits were asked for by the model's name.
    """
    asked = dtypes.of(name)
    if name in dtypes.named and asked in PACKED_ONLY:
        raise PrecisionError(f"{name}: makes pictures, which {asked} is not for: fp32 or bf16 only")
    return resolve("auto" if asked in PACKED_ONLY else asked, device)


def for_text(dtypes: Dtypes, name: str, network: nn.Module, device: torch.device) -> Precision:
    """The precision of a sequence model; one that can't be packed is served as it is, in fp32 unless told otherwise.

    Raises:
        PrecisionError: few bits on a GPU; or for a network that can't be packed, by its name.
    """
    asked = dtypes.of(name)
    if asked in PACKED_ONLY and device.type != "cpu":
        raise PrecisionError(f"{name}: {asked} is for CPUs; on {device} give fp32 or bf16")
    if is_packable(network):
        return resolve(asked, device)
    if asked in PACKED_ONLY and name in dtypes.named:
        raise PrecisionError(f"{name}: {type(network).__name__} has no embedding and head to pack: fp32 or bf16 only")
    return "bf16" if asked == "bf16" else "fp32"


def check_card(name: str, chosen: Precision, card: Mapping[str, Any]) -> None:
    """Refuse a precision that costs a language model too much by its own card; say so where few bits were not measured.

    Raises:
        PrecisionError: the card says that it is not to be served.
    """
    match card:
        case {"precision": {"precisions": dict(measured)}}:
            said = measured.get(chosen)
        case _:
            said = None
    match said:
        case {"served": False, **rest}:
            cost = f"too much perplexity ({rest.get('ratio', '?')} times as much)"
            raise PrecisionError(f"{name}: by its card {chosen} costs {cost}: give it another precision")
        case {"served": True}:
            pass
        case _ if chosen in PACKED_ONLY:
            log.warning("%s: its card does not say what %s costs; training.perplexity measures it", name, chosen)
