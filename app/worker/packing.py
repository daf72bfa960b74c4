"""Prepares a latent model for the CPU once, at load: weights in oneDNN's own layout, norms folded, activations fused.

Eager PyTorch lays the weights of a convolution out anew at every call, which at small batches costs more than the
arithmetic. Knows modules and their arithmetic; knows no model by name, and leaves alone what it does not know.
"""

import copy
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized

from app.worker import subpixel

Convolution = nn.Conv2d | nn.ConvTranspose2d

# What oneDNN applies to the output of a layer while it is still in registers: its name and its arguments.
ACTIVATIONS: dict[type[nn.Module], Callable[[Any], tuple[str, list[float]]]] = {
    nn.ReLU: lambda _: ("relu", []),
    nn.LeakyReLU: lambda module: ("leaky_relu", [module.negative_slope]),
    nn.Tanh: lambda _: ("tanh", []),
    nn.Sigmoid: lambda _: ("sigmoid", []),
}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.02}  # mean over pixels in [-1, 1]; 0.02 is 2.5 grey levels

log = logging.getLogger("genserve.worker")
onednn = torch.ops.mkldnn


def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware (AVX512-BF16, AMX); elsewhere it is emulated, and slow."""
    has = torch.cpu.get_capabilities()
    return _has_onednn() and bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def _has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def prepare(model: nn.Module, dtype: torch.dtype, latents: Tensor, labels: Tensor) -> tuple[nn.Module, torch.dtype]:
    """A copy of the model for serving on the CPU, and the precision that it computes in.

    Packed weights in `dtype` where that gives the pictures of the eager network in float32; else, in this order, what
    does: eager in `dtype`, packed in float32, eager in float32.

    Args:
        model: a `LatentModel` in evaluation mode, float32, on the CPU; left as it is.
        dtype: float32 or bfloat16.
        latents: rows to find the shapes with, and to compare by.
        labels: theirs.
    """
    with torch.inference_mode():
        expected = _decode(model, latents, labels)
        for precision in dict.fromkeys((dtype, torch.float32)):
            for build in (_pack, _convert):
                try:
                    built = build(model, precision, latents, labels)
                    error = (_decode(built, latents.to(precision), labels) - expected).abs().mean().item()
                except Exception as reason:  # noqa: BLE001  # a network that looks into its own layers may raise anything
                    log.info("%s in %s does not work: %r", build.__name__.lstrip("_"), precision, reason)
                    continue
                if error <= TOLERANCE[precision]:  # NaN is no agreement
                    return built, precision
                log.info("%s in %s is off by %.3g", build.__name__.lstrip("_"), precision, error)
    return model, torch.float32


def _decode(model: nn.Module, latents: Tensor, labels: Tensor) -> Tensor:
    out: Tensor = model.decode(latents, labels)  # type: ignore[operator]  # a LatentModel
    return out.float()


def _pack(model: nn.Module, dtype: torch.dtype, latents: Tensor, labels: Tensor) -> nn.Module:
    """Norms folded in full precision, then converted, then laid out."""
    if not _has_onednn():
        raise RuntimeError("this torch has no oneDNN")
    packed = copy.deepcopy(model)
    _fold(_calls(packed, latents, labels))
    packed = _convert(packed, dtype, latents, labels)
    _replace(packed, _calls(packed, latents.to(dtype), labels))
    return packed


def _convert(model: nn.Module, dtype: torch.dtype, latents: Tensor, labels: Tensor) -> nn.Module:  # noqa: ARG001
    """A copy in another precision; norms keep theirs, which the CPU's kernels take beside bf16 inputs."""
    out = copy.deepcopy(model).to(dtype)
    for module in out.modules():
        if isinstance(module, nn.GroupNorm | nn.BatchNorm2d):
            module.float()
    return out


@dataclass(frozen=True)
class _Call:
    """One module's one call: its name and the shape that it was given."""

    name: str
    shape: tuple[int, ...]


def _calls(model: nn.Module, latents: Tensor, labels: Tensor) -> dict[nn.Module, _Call]:
    """Modules that `decode` calls exactly once, with the shape of their input."""
    seen: dict[nn.Module, list[_Call]] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda module, inputs, name=name: seen.setdefault(module, []).append(_Call(name, tuple(inputs[0].shape)))
        )
        for name, module in model.named_modules()
        if isinstance(module, Convolution | nn.Linear | nn.GroupNorm | nn.Sequential)
    ]
    try:
        _decode(model, latents, labels)
    finally:
        for hook in hooks:
            hook.remove()
    return {module: calls[0] for module, calls in seen.items() if len(calls) == 1}


def _is_linear(module: nn.Module) -> bool:
    return type(module) is nn.Linear and not is_parametrized(module)


def _is_convolution(module: nn.Module) -> bool:
    """Whether a module is a plain two-dimensional convolution with zero padding."""
    return (
        type(module) in (nn.Conv2d, nn.ConvTranspose2d)
        and not is_parametrized(module)
        and module.padding_mode == "zeros"
        and isinstance(module.padding, tuple)
    )


def _fold(called: dict[nn.Module, _Call]) -> None:
    """Fold batch norms into the convolutions before them, wherever a `Sequential` was called as a whole."""
    for sequence in list(called):
        if not isinstance(sequence, nn.Sequential):
            continue
        layers = list(sequence)
        for i, (layer, following) in enumerate(itertools.pairwise(layers)):
            if _is_convolution(layer) and type(following) is nn.BatchNorm2d and following.track_running_stats:
                transpose = isinstance(layer, nn.ConvTranspose2d)
                sequence[i] = fuse_conv_bn_eval(layer, following, transpose)  # type: ignore[type-var]
                sequence[i + 1] = nn.Identity()


def _replace(model: nn.Module, called: dict[nn.Module, _Call]) -> None:
    """Put packed modules where plain ones are."""
    fused = dict(_fused_activations(called))
    for module, call in called.items():
        after = fused.get(module, ("none", []))
        if _is_convolution(module):
            packed: nn.Module = _packed(module, call.shape, *after)  # type: ignore[arg-type]
        elif _is_linear(module) and len(call.shape) == 2:
            packed = _PackedLinear(module, *after)  # type: ignore[arg-type]
        elif type(module) is nn.GroupNorm and len(call.shape) == 4:
            packed = _PlanarGroupNorm(module)
        else:
            continue
        parent, _, child = call.name.rpartition(".")
        setattr(model.get_submodule(parent), child, packed)


def _fused_activations(called: dict[nn.Module, _Call]) -> Iterator[tuple[nn.Module, tuple[str, list[float]]]]:
    """Layers that are followed by nothing but an activation, which is taken out of its `Sequential`."""
    for sequence in called:
        if not isinstance(sequence, nn.Sequential):
            continue
        layers = [(i, layer) for i, layer in enumerate(sequence) if not isinstance(layer, nn.Identity)]
        for (_, layer), (i, following) in itertools.pairwise(layers):
            if layer in called and _fuses(layer, called[layer].shape) and type(following) in ACTIVATIONS:
                yield layer, ACTIVATIONS[type(following)](following)
                sequence[i] = nn.Identity()


def _fuses(layer: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a layer is packed and its kernel stays fast with an activation: transposed ones in fp32 do not."""
    if _is_linear(layer):
        return len(shape) == 2
    return _is_convolution(layer) and (isinstance(layer, nn.Conv2d) or layer.weight.dtype == torch.bfloat16)


def _packed(layer: Convolution, shape: tuple[int, ...], activation: str, scalars: list[float]) -> nn.Module:
    if (found := subpixel.in_blocks(layer, shape)) is not None:
        blocks, r = found
        return nn.Sequential(_PackedConv2d(blocks, shape, activation, scalars), nn.PixelShuffle(r))
    if isinstance(layer, nn.Conv2d):
        return _PackedConv2d(layer, shape, activation, scalars)
    if shape[2:] == (1, 1) and layer.padding == (0, 0) and layer.output_padding == (0, 0) and layer.groups == 1:
        return _PackedProjection(layer, activation, scalars)
    return _PackedConvTranspose2d(layer, shape, activation, scalars)


class _PackedConv2d(nn.Module):
    """A convolution on a weight in oneDNN's layout, with its activation: [N, C, H, W], channels last on the way out."""

    def __init__(self, layer: nn.Conv2d, shape: tuple[int, ...], activation: str, scalars: list[float]) -> None:
        """Pack the weight for inputs of about this shape; other batch sizes are right too."""
        super().__init__()
        self._where = (layer.padding, layer.stride, layer.dilation, layer.groups)
        self._weight = onednn._reorder_convolution_weight(layer.weight, *self._where, shape)
        self._bias = layer.bias
        self._after = (activation, scalars, "")

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        out: Tensor = onednn._convolution_pointwise(x, self._weight, self._bias, *self._where, *self._after)
        return out


class _PackedConvTranspose2d(nn.Module):
    """A transposed convolution on a weight in oneDNN's layout, with its activation."""

    def __init__(
        self, layer: nn.ConvTranspose2d, shape: tuple[int, ...], activation: str, scalars: list[float]
    ) -> None:
        """Pack the weight for inputs of about this shape; other batch sizes are right too."""
        super().__init__()
        self._where = (layer.padding, layer.output_padding, layer.stride, layer.dilation, layer.groups)
        self._weight = onednn._reorder_convolution_transpose_weight(layer.weight, *self._where, shape)
        self._bias = layer.bias
        self._after = (activation, scalars, "")

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        out: Tensor = onednn._convolution_transpose_pointwise(x, self._weight, self._bias, *self._where, *self._after)
        return out


class _PackedProjection(nn.Module):
    """A transposed convolution of a 1 x 1 input, which is a matrix product: [N, C, 1, 1] -> [N, D, kH, kW]."""

    def __init__(self, layer: nn.ConvTranspose2d, activation: str, scalars: list[float]) -> None:
        super().__init__()
        channels, height, width = layer.weight.shape[1:]
        self._shape = (-1, height, width, channels)
        weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()  # [kH * kW * D, C]
        self._weight = onednn._reorder_linear_weight(weight)
        self._bias = None if layer.bias is None else layer.bias.repeat(height * width)
        self._after = (activation, scalars, "")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = onednn._linear_pointwise(x.flatten(1), self._weight, self._bias, *self._after)
        return out.view(self._shape).permute(0, 3, 1, 2)


class _PackedLinear(nn.Module):
    """A matrix product on a weight in oneDNN's layout, with its activation: [N, C] -> [N, D]."""

    def __init__(self, layer: nn.Linear, activation: str, scalars: list[float]) -> None:
        super().__init__()
        self._weight = onednn._reorder_linear_weight(layer.weight)
        self._bias = layer.bias
        self._after = (activation, scalars, "")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = onednn._linear_pointwise(x, self._weight, self._bias, *self._after)
        return out


class _PlanarGroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018) of channels that lie one after the other.

    PyTorch's kernel for bf16 with channels last takes five times as long as a copy and the other kernel.
    """

    def __init__(self, layer: nn.GroupNorm) -> None:
        super().__init__()
        self._layer = layer

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._layer(x.contiguous())
        return out
