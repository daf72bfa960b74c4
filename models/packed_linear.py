"""Linear layers laid out once for the CPU, in several precisions.

Knows the arithmetic of one product; knows no network. Eager PyTorch lays a weight out anew at every call, which for a
few rows costs more than the arithmetic. A row's bits do not depend on the rows beside it, nor on their number: of all
these, only float32 with many inputs differs for a lone row.
"""

import functools
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from models.rounding import GROUP, SMALLEST, round_to_int4, round_to_int8

INT4_OUTPUTS = 16  # the 4-bit kernel wants a multiple of these
PROBES = 32  # rows on which a shape of layer is tried out
OUTPUTS = 4096  # of it that are looked at, at most
MIDDLE = 128  # of unsigned 8-bit activations; oneDNN is slow on signed ones

onednn = torch.ops.mkldnn
integers = torch.ops.onednn


class Packed(ABC):
    """A part of a network on weights that are no parameters any more.

    No `nn.Module`: finding one and calling it costs as much as a small operation, and a step of one row calls 270.

    Attributes:
        bytes: that its weights take.
    """

    bytes: int

    @abstractmethod
    def __call__(self, x: Tensor, /) -> Tensor:
        """What it computes, on [..., K]."""


class PackedLinear(Packed):
    """A product in the weight's own precision, float32 or bfloat16, in oneDNN's layout.

    For some shapes with many inputs, oneDNN adds a lone row's products up in another order than it does among others:
    there, such a row is computed twice instead.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Lay out a weight [N, K] with its bias [N], both in one precision."""
        self._weight, self._bias = onednn._reorder_linear_weight(weight), bias
        self.bytes = _bytes(weight, bias)
        self._twice = not alone_as_among_others(*weight.shape, weight.dtype, torch.get_num_threads())

    def __call__(self, x: Tensor, /) -> Tensor:
        """The product, in the precision of the weight."""
        if self._twice and len(x) == 1 and x.ndim == 2:
            return _product(x.repeat(2, 1), self._weight, self._bias)[:1]
        return _product(x, self._weight, self._bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = onednn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


@functools.lru_cache(maxsize=256)
def alone_as_among_others(outputs: int, inputs: int, dtype: torch.dtype, _threads: int) -> bool:
    """Whether a product of this shape gives a row the same bits alone; tried out on sums that another order changes."""
    generator = torch.Generator().manual_seed(0)
    weight, rows = (
        torch.randn(count, inputs, generator=generator).pow(5).to(dtype) for count in (min(outputs, OUTPUTS), PROBES)
    )
    laid_out = onednn._reorder_linear_weight(weight)
    together = _product(rows, laid_out, None)
    return all(torch.equal(_product(rows[i : i + 1], laid_out, None), together[i : i + 1]) for i in range(PROBES))


class Int4Linear(Packed):
    """A product in 4 bits, 32 inputs sharing a scale and an offset; activations are bfloat16: others are slow."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Round a weight [N, K] and lay it out; `fits_int4` says which shapes may be."""
        codes, self._scales = round_to_int4(weight)
        self._weight = torch._convert_weight_to_int4pack_for_cpu(codes, 1)
        self._bias = None if bias is None else bias.bfloat16()
        self.bytes = _bytes(self._weight, self._scales, self._bias)

    def __call__(self, x: Tensor, /) -> Tensor:
        """The product in bfloat16."""
        if x.ndim != 2 or not x.is_contiguous():
            return _by_rows(self, x)
        out = torch._weight_int4pack_mm_for_cpu(x, self._weight, GROUP, self._scales)
        return out if self._bias is None else out + self._bias


def _by_rows(product: Packed, x: Tensor) -> Tensor:
    """The product of [..., K], whose kernel takes rows alone, one behind the other."""
    out: Tensor = product(x.reshape(-1, x.shape[-1]).contiguous())
    return out.view(*x.shape[:-1], out.shape[-1])


def fits_int4(weight: Tensor) -> bool:
    """Whether a weight [N, K] has whole groups and as many outputs as the kernel wants."""
    outputs, inputs = weight.shape
    return outputs % INT4_OUTPUTS == 0 and inputs % GROUP == 0


class WeightInt8Linear(Packed):
    """A product in 8 bits with a scale an output, on activations in bfloat16: others are slow."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Round a weight [N, K]."""
        self._weight, scales = round_to_int8(weight)
        self._scales, self._bias = scales.bfloat16(), None if bias is None else bias.bfloat16()
        self.bytes = _bytes(self._weight, self._scales, self._bias)

    def __call__(self, x: Tensor, /) -> Tensor:
        """The product in bfloat16."""
        if x.ndim != 2 or not x.is_contiguous():
            return _by_rows(self, x)
        out = torch._weight_int8pack_mm(x, self._weight, self._scales)
        return out if self._bias is None else out + self._bias


class Int8Linear(Packed):
    """A product in 8 bits with a scale an output, on activations in 8 bits with a scale a token (Xiao et al. 2023).

    Activations are divided by `smooth` first, and the weight is multiplied by it: what is large in some inputs alone
    would take the bits of all others.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, smooth: Tensor | None, out: torch.dtype) -> None:
        """Round a weight [N, K] and lay it out; smooth [K]; `out` is the precision of the products."""
        codes, self._scales = round_to_int8(weight if smooth is None else weight * smooth)
        self._weight = integers.qlinear_prepack(codes, None)
        self._zeros = torch.zeros(len(codes), dtype=torch.int32)
        self._bias, self._out = None if bias is None else bias.float(), out
        self._unsmooth = None if smooth is None else smooth.float().reciprocal()
        self.bytes = _bytes(codes, self._scales, self._bias)

    def __call__(self, x: Tensor, /) -> Tensor:
        """The product."""
        # One kind of number at a time: operations that mix two take many times as long.
        x = x.float()
        if self._unsmooth is not None:
            x = x * self._unsmooth
        scales = x.abs().amax(-1, keepdim=True).clamp_min_(SMALLEST).div_(MIDDLE - 1)
        codes = (x / scales).add_(MIDDLE + 0.5).to(torch.uint8)  # cutting the fraction off rounds
        weight = (self._weight, self._scales, self._zeros)
        out: Tensor = integers.qlinear_pointwise(
            codes, 1.0, MIDDLE, *weight, None, 1.0, 0, torch.float32, "none", [], ""
        )
        out.mul_(scales)
        return (out if self._bias is None else out.add_(self._bias)).to(self._out)


class Phased(Packed):
    """A layer that is packed twice, since no kernel of few bits is good at one row and at hundreds.

    Attributes:
        step: what steps go through; what the layer is where nobody asks for a phase.
        prompt: what prompts go through.
    """

    def __init__(self, step: Packed, prompt: Packed) -> None:
        """Hold both."""
        self.step, self.prompt = step, prompt
        self.bytes = step.bytes + prompt.bytes

    def __call__(self, x: Tensor, /) -> Tensor:
        """The product of steps."""
        return self.step(x)


def _bytes(*tensors: Tensor | None) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
