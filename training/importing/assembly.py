"""Our tensors out of theirs, one at a time: fused, turned the right way and in the precision in which they are stored.

Knows plans and sources; knows no files.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

import models
from models.architecture import build
from models.errors import CheckpointError
from training.errors import TrainingError
from training.importing.architectures import Plan
from training.importing.source import Tensors

LOSS = 2.0**-11  # of the largest number of a tensor: what rounding to 11 bits may cost
FEW = 3  # names in a message


def shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Of all tensors of our network, without allocating any.

    Raises:
        TrainingError: our network refuses its arguments.
    """
    try:
        with torch.device("meta"):
            network = build(plan.architecture, plan.arguments, models.SEQUENCE_MODELS)
    except CheckpointError as error:
        raise TrainingError(str(error)) from error
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def check(plan: Plan, tensors: Tensors) -> None:
    """See that the source has every tensor in its shape, and none that would be left out.

    Raises:
        TrainingError: what is missing, unexpected or of another shape.
    """
    names = set(tensors.names())
    used = [part for parts in plan.parts.values() for part in parts]
    if missing := [name for name in used if name not in names]:
        raise TrainingError(f"the source lacks {_some(missing)}")
    if extra := sorted(name for name in names - {*used} - {*plan.copies} if not name.endswith(plan.ignored)):
        raise TrainingError(f"the source has tensors that this architecture does not: {_some(extra)}")
    for name, wanted in shapes(plan).items():
        if (found := _joined_shape(plan, tensors, name)) != wanted:
            raise TrainingError(f"{' + '.join(plan.parts[name])}: {list(found)}, {list(wanted)} expected")
    for copy, original in plan.copies.items():
        if copy in names and not _equal(tensors, copy, original):
            raise TrainingError(f"{copy} differs from {original}, to which it should be tied")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(name[:200] for name in names[:FEW]) + more


def _joined_shape(plan: Plan, tensors: Tensors, name: str) -> tuple[int, ...]:
    found = [tensors.shape(part)[:: -1 if part.endswith(plan.transposed) else 1] for part in plan.parts[name]]
    if any(not shape or shape[1:] != found[0][1:] for shape in found):
        raise TrainingError(f"{' + '.join(plan.parts[name])}: shapes {found} do not lie one below the other")
    total = sum(shape[0] for shape in found)
    return (min(total, plan.rows.get(name, total)), *found[0][1:])


def _equal(tensors: Tensors, copy: str, original: str) -> bool:
    return tensors.shape(copy) == tensors.shape(original) and torch.equal(tensors.read(copy), tensors.read(original))


def assemble(plan: Plan, tensors: Tensors) -> Iterator[tuple[str, Tensor]]:
    """Our tensors by name, each as it is to be stored; call `check` first.

    Raises:
        TrainingError: a tensor can't be read or holds numbers that are not finite.
    """
    for name, parts in plan.parts.items():
        read = [tensors.read(part) for part in parts]
        turned = [x.T if part.endswith(plan.transposed) else x for part, x in zip(parts, read, strict=True)]
        joined = (torch.cat(turned) if len(turned) > 1 else turned[0])[: plan.rows.get(name)]
        if not bool(torch.isfinite(torch.stack(joined.aminmax())).all()):
            raise TrainingError(f"{' + '.join(parts)}: holds numbers that are not finite")
        yield name, stored(joined).contiguous()


def stored(tensor: Tensor) -> Tensor:
    """A tensor in the precision in which it is kept.

    float16 and bfloat16 stay as they are, so that nothing of a published network is lost. float32, which is also what
    quantised numbers become, is rounded to float16, unless numbers are too large or too small for that.
    """
    if tensor.dtype != torch.float32 or not tensor.numel():
        return tensor
    half = tensor.half()
    largest, worst = float(tensor.abs().max()), float((half.float() - tensor).abs().max())
    return half if worst <= LOSS * largest else tensor
