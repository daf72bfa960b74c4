"""Puts a language model's weights into the precision that it is served in, once, at load.

Knows modules and precisions; knows no network by name: `embedding` and `head` are all that it asks for by name, every
other product is an `nn.Linear` that it finds.
"""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from models.calibration import Calibrating, calibrate
from models.decoder import Decoder
from models.norm import ShortRMSNorm
from models.packed_linear import (
    Int4Linear,
    Int8Linear,
    Packed,
    PackedLinear,
    Phased,
    WeightInt8Linear,
    fits_int4,
)

Kind = TypeVar("Kind", bound=nn.Module)
Precision = Literal["fp32", "bf16", "int8", "int4"]
NAMES: dict[Precision, str] = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8", "int4": "int4"}
# What the residual stream is in: kernels of few bits want bfloat16.
TORCH_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "int8": torch.bfloat16,
    "int4": torch.bfloat16,
}
HEAD = "head"
PACKED_ONLY: tuple[Precision, ...] = ("int8", "int4")


class PrecisionError(Exception):
    """A network can't be had in this precision; the message says why."""


def is_packable(network: nn.Module) -> bool:
    """Whether a network is a language model of the known shape: an embedding, and a head that may be the embedding."""
    head = getattr(network, "head", network)
    return isinstance(getattr(network, "embedding", None), nn.Embedding) and (head is None or type(head) is nn.Linear)


def pack(network: nn.Module, precision: Precision, sample: Sequence[int] = ()) -> None:
    """Replace every linear layer of a language model by a packed one, and convert what remains; for the CPU.

    Layer by layer, each original dropped before the next, so that little more than the larger of the two is ever in
    memory. In int4, a layer whose shape the kernel can't take stays in bfloat16. A tied head gets weights of its own.

    Args:
        network: as its file was mapped; changed in place.
        precision: of its products.
        sample: tokens of `calibration.SAMPLE`; layers with few bits are smoothed by what they see of it.

    Raises:
        PrecisionError: the network is no language model of the known shape.
    """
    if not is_packable(network):
        raise PrecisionError(
            f"{type(network).__name__} has no embedding and head: it can be served in fp32 or bf16 only"
        )
    phased = isinstance(network, Decoder)
    for name, layer in _layers(network):
        kind = partial(_packed_head if name == HEAD else _packed, precision=precision, phased=phased)
        _put(network, name, Calibrating(layer, kind))
    network.to(TORCH_DTYPES[precision])
    if sample and precision in PACKED_ONLY:
        calibrate(network, sample)
    for name, stand_in in _all(network, Calibrating):
        _put(network, name, stand_in.finish())
    for name, norm in _all(network, nn.RMSNorm):
        _put(network, name, ShortRMSNorm(norm, TORCH_DTYPES[precision]))
    if isinstance(network, Decoder):
        _part_phases(network)


def packed_bytes(network: nn.Module) -> int:
    """Bytes of all weights of a packed network."""
    prompts = getattr(network, "prompt_blocks", None) or ()
    owners = [module for root in (network, *prompts) for module in root.modules()]
    inside = {id(part): part.bytes for owner in owners for part in vars(owner).values() if isinstance(part, Packed)}
    return sum(inside.values()) + sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))


def _layers(network: nn.Module) -> list[tuple[str, nn.Linear]]:
    """All plain linear layers by name, and the head even where it is the embedding."""
    found = [(name, module) for name, module in network.named_modules() if _is_linear(module)]
    layers = [(name, layer) for name, layer in found if isinstance(layer, nn.Linear)]
    if network.head is None:
        assert isinstance(network.embedding, nn.Embedding)
        tied = nn.Linear(1, 1, bias=False, device="meta")
        tied.weight = nn.Parameter(network.embedding.weight.detach(), requires_grad=False)
        layers.append((HEAD, tied))
    return layers


def _all(network: nn.Module, kind: type[Kind]) -> list[tuple[str, Kind]]:
    """All modules of a kind by name."""
    return [(name, module) for name, module in network.named_modules() if isinstance(module, kind)]


def _is_linear(module: nn.Module) -> bool:
    return type(module) is nn.Linear and not is_parametrized(module)


def _put(network: nn.Module, name: str, part: nn.Module | Packed) -> None:
    """Replace a module; one that is packed is found without the search that modules take."""
    path, _, child = name.rpartition(".")
    parent = network.get_submodule(path)
    delattr(parent, child)
    setattr(parent, child, part)


def _part_phases(network: Decoder) -> None:
    """Let prompts go through blocks of their own where a layer is packed twice; all other parts are shared."""
    if not any(isinstance(part, Phased) for block in network.blocks for part in vars(block).values()):
        return
    network.prompt_blocks = [copy.copy(block) for block in network.blocks]
    for block, reader in zip(network.blocks, network.prompt_blocks, strict=True):
        for name, part in list(vars(block).items()):
            if isinstance(part, Phased):
                setattr(block, name, part.step)
                setattr(reader, name, part.prompt)


@torch.no_grad()
def _packed(layer: nn.Linear, smooth: Tensor | None, precision: Precision, phased: bool) -> Packed:
    """A linear layer in a precision.

    Prompts go through 8-bit products wherever steps go through fewer bits or 8-bit weights: for many rows they are the
    fastest, and keep what a few bits have left of the weights. Which of the two is a matter of phase, never of rows.
    """
    weight, bias, dtype = layer.weight, layer.bias, TORCH_DTYPES[precision]
    if precision not in PACKED_ONLY or (precision == "int4" and not fits_int4(weight)):
        return PackedLinear(weight.to(dtype), None if bias is None else bias.to(dtype))
    if precision == "int8" and not phased:
        return Int8Linear(weight, bias, smooth, dtype)
    step = Int4Linear(weight, bias) if precision == "int4" else WeightInt8Linear(weight, bias)
    return Phased(step, Int8Linear(weight, bias, smooth, dtype)) if phased else step


@torch.no_grad()
def _packed_head(layer: nn.Linear, smooth: Tensor | None, precision: Precision, phased: bool) -> Packed:
    """A head in a precision. 4 bits would damage it: each of its few inputs decides over all tokens."""
    if precision in PACKED_ONLY:
        return Int8Linear(layer.weight, layer.bias, smooth, torch.float32)
    return _packed(layer, smooth, precision, phased)
