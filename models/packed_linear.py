"""Linear layers laid out once for the CPU, in several precisions.

Knows the arithmetic of one product; knows no network. Eager PyTorch lays a weight out anew at every call, which for a
few rows costs more than the arithmetic. A row's bits do not depend on the rows beside it, nor on their number: of all
these, only float32 with many inputs differs for a lone row.
"""

import torch
from torch import Tensor, nn

from models.rounding import GROUP, SMALLEST, round_to_int4, round_to_int8

INT4_OUTPUTS = 16  # the 4-bit kernel wants a multiple of these
MIDDLE = 128  # of unsigned 8-bit activations; oneDNN is slow on signed ones

onednn = torch.ops.mkldnn
integers = torch.ops.onednn


class Packed(nn.Module):
    """A product on a weight that is no parameter any more: [..., K] -> [..., N].

    Attributes:
        bytes: that its weight, scales and bias take.
    """

    bytes: int


class PackedLinear(Packed):
    """In the weight's own precision, float32 or bfloat16, in oneDNN's layout."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Lay out a weight [N, K] with its bias [N], both in one precision."""
        super().__init__()
        self._weight, self._bias = onednn._reorder_linear_weight(weight), bias
        self.bytes = _bytes(weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        """The product, in the precision of the weight."""
        out: Tensor = onednn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return out


class Int4Linear(Packed):
    """In 4 bits, groups of 32 inputs with a scale and an offset; activations are bfloat16: others are slow."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Round a weight [N, K] and lay it out; `fits_int4` says which shapes may be."""
        super().__init__()
        codes, self._scales = round_to_int4(weight)
        self._weight = torch._convert_weight_to_int4pack_for_cpu(codes, 1)
        self._bias = None if bias is None else bias.bfloat16()
        self.bytes = _bytes(self._weight, self._scales, self._bias)

    def forward(self, x: Tensor) -> Tensor:
        """The product in bfloat16."""
        out = torch._weight_int4pack_mm_for_cpu(x, self._weight, GROUP, self._scales)
        return out if self._bias is None else out + self._bias


def fits_int4(weight: Tensor) -> bool:
    """Whether a weight [N, K] has whole groups and as many outputs as the kernel wants."""
    outputs, inputs = weight.shape
    return outputs % INT4_OUTPUTS == 0 and inputs % GROUP == 0


class Int8Linear(Packed):
    """In 8 bits with a scale an output, on activations in 8 bits with a scale a token (Xiao et al. 2023).

    Activations are divided by `smooth` first, and the weight is multiplied by it: what is large in some inputs alone
    would take the bits of all others.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, smooth: Tensor | None, out: torch.dtype) -> None:
        """Round a weight [N, K] and lay it out; smooth [K]; `out` is the precision of the products."""
        super().__init__()
        codes, self._scales = round_to_int8(weight if smooth is None else weight * smooth)
        self._weight = integers.qlinear_prepack(codes, None)
        self._zeros = torch.zeros(len(codes), dtype=torch.int32)
        self._bias, self._out = None if bias is None else bias.float(), out
        self._unsmooth = None if smooth is None else smooth.float().reciprocal()
        self.bytes = _bytes(codes, self._scales, self._bias)

    def forward(self, x: Tensor) -> Tensor:
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


def _bytes(*tensors: Tensor | None) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
