"""Puts a language model's weights into the precision that it is served in, once, at load.

Knows modules and precisions; knows no network by name: `embedding` and `head` are all that it asks for by name, every
other product is an `nn.Linear` that it finds.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from models.calibration import Calibrating, calibrate
from models.packed_linear import Int4Linear, Int8Linear, Packed, PackedLinear, fits_int4

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
    for name, layer in _layers(network):
        _put(network, name, Calibrating(layer, partial(_packed, precision=precision, is_head=name == HEAD)))
    network.to(TORCH_DTYPES[precision])
    if sample and precision in PACKED_ONLY:
        calibrate(network, sample)
    for name in [name for name, module in network.named_modules() if isinstance(module, Calibrating)]:
        stand_in = network.get_submodule(name)
        assert isinstance(stand_in, Calibrating)
        _put(network, name, stand_in.finish())


def packed_bytes(network: nn.Module) -> int:
    """Bytes of all weights of a packed network."""
    inside = sum(module.bytes for module in network.modules() if isinstance(module, Packed))
    return inside + sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))


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


def _is_linear(module: nn.Module) -> bool:
    return type(module) is nn.Linear and not is_parametrized(module)


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


@torch.no_grad()
def _packed(layer: nn.Linear, smooth: Tensor | None, precision: Precision, is_head: bool) -> Packed:
    """A linear layer in a precision. 4 bits would damage a head: each of its few inputs decides over all tokens."""
    weight, bias, dtype = layer.weight, layer.bias, TORCH_DTYPES[precision]
    if precision == "int8" or (precision == "int4" and is_head):
        return Int8Linear(weight, bias, smooth, torch.float32 if is_head else dtype)
    if precision == "int4" and fits_int4(weight):
        return Int4Linear(weight, bias)
    return PackedLinear(weight.to(dtype), None if bias is None else bias.to(dtype))
