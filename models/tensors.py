"""The numbers of a network: read from a safetensors file, put into the network, and written again in half precision.

Knows safetensors and torch; knows nothing of configurations.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from models.errors import CheckpointError, short

SHOWN = 3  # faults in a message


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped from it.

    Raises:
        CheckpointError: the file can't be read as such, or a number is not finite.
    """
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors: {short(str(error))}") from error
    _check_finite(path, tensors)
    return tensors


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Finite where it is used, in float32: 1e300 in a float64 file is not."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel() and not _extremes_finite(tensor):
            raise CheckpointError(f"{path}: tensor {short(name)} holds non-finite values")


def _extremes_finite(tensor: Tensor) -> bool:
    """NaN is both the least and the greatest of whatever it is among; no copy in float32 is made of many numbers."""
    wide = tensor if tensor.element_size() > 1 else tensor.float()  # floats of 8 bits know no order
    return bool(torch.isfinite(torch.stack(wide.aminmax()).float()).all())


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], source: str, *, as_stored: bool = False) -> None:
    """Copy tensors into a network, or hand them over as they are; names, shapes and kinds of number must match.

    Raises:
        CheckpointError: names are missing or unexpected, or a shape or kind of number differs; the message shows up to
            three of them.
    """
    faults = list(_faults(model.state_dict(), tensors))
    if faults:
        more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise CheckpointError(f"{source}: does not fit the architecture: {'; '.join(faults[:SHOWN])}{more}")
    model.load_state_dict(dict(tensors), assign=as_stored)


def _faults(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Iterator[str]:
    """Where a network's tensors and those of a file differ."""
    shared = sorted(own.keys() & given.keys())
    yield from (f"{name} is missing" for name in sorted(own.keys() - given.keys()))
    yield from (f"{short(name)} is unexpected" for name in sorted(given.keys() - own.keys()))
    for name in shared:
        if own[name].shape != given[name].shape:
            yield f"{name} is {list(given[name].shape)}, {list(own[name].shape)} expected"
    for name in shared:
        if _number(own[name]) != _number(given[name]):
            yield f"{name} is {given[name].dtype}, {own[name].dtype} expected"


def _number(tensor: Tensor) -> tuple[bool, bool]:
    """The kind of number, of whatever width."""
    return tensor.is_floating_point(), tensor.is_complex()


def halves(path: Path, model: nn.Module) -> bytes:
    """A network as the content of a safetensors file, floats in fp16.

    Raises:
        CheckpointError: a weight is non-finite or too large for that; the message names the file.
    """
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    tensors = {name: (t.half() if t.is_floating_point() else t).contiguous() for name, t in tensors.items()}
    _check_finite(path, tensors)
    return safetensors.torch.save(tensors)


def tensor_bytes(model: nn.Module) -> int:
    """Bytes that the network's parameters and buffers take in their present dtype."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(math.prod(t.shape) * t.element_size() for t in tensors)
