"""Latent models that make tests of the engine exact: what they paint, and when, is known in advance.

A served process gets them the way an operator's own models come: `GENSERVE_MODELS_MODULE=tests.fakes`.
"""

import os
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import models
from models import checkpoint

# The first number of a latent can be one of these; a drawn latent never comes near them.
RAISE, NAN, GATE, EXIT, NAP = 1000.0, 2000.0, 3000.0, 4000.0, 5000.0
SHORT_OF_MEMORY, OUT_OF_MEMORY, LOST = 6000.0, 7000.0, 8000.0
FITS = 2  # rows of a batch that holds a `SHORT_OF_MEMORY`; no batch that holds an `OUT_OF_MEMORY` fits
POISON = {RAISE: 255, NAN: 254, EXIT: 253, GATE: 252}  # the same for a picture: its first pixel
GATE_SECONDS = 60.0  # a forgotten gate must not hang the suite
NAP_SECONDS = 0.02
LATENT_DIM = 4
LABELS = tuple(f"kind {i}" for i in range(10))


class EchoLatents(nn.Module):
    """Paints its latent and its label, so that a test can tell whose picture it got; see `echo`."""

    def __init__(
        self, *, side: int = 4, num_classes: int = 10, image_channels: int = 1, gate: str = "", build_gate: str = ""
    ) -> None:
        super().__init__()
        self.latent_shape = (LATENT_DIM,)
        self.num_classes = num_classes
        self.side, self.image_channels, self.gate = side, image_channels, gate
        self.weight = nn.Parameter(torch.ones(LATENT_DIM))
        if build_gate:
            _wait_at(Path(build_gate))

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        magic = latents[:, 0]
        if (magic == EXIT).any():
            os._exit(9)
        if (magic == RAISE).any():
            raise ValueError("a poisoned latent")
        if (magic == OUT_OF_MEMORY).any() or (len(magic) > FITS and (magic == SHORT_OF_MEMORY).any()):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        if (magic == LOST).any():
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        if (magic == NAP).any():
            time.sleep(NAP_SECONDS)
        if (magic == GATE).any():
            _wait_at(Path(self.gate))
        values = (latents * self.weight).clamp(-1.0, 1.0)
        places = _places(self.image_channels, self.side)
        out = values[:, torch.from_numpy(places)]
        if self.num_classes:
            out[:, :, 0, 0] = (labels[:, None] / 5.0) - 1.0
        out[magic == NAN] = float("nan")
        return out


class EchoEncoder(EchoLatents):
    """Reads back what it has painted; see `encoded`.

    With classes, the first pixel is the label's, and one that is lighter than any label's is one of `POISON`.
    """

    def encode(self, samples: Tensor, labels: Tensor, /) -> Tensor:
        first = samples[:, 0, 0, 0].mul(127.5).add(127.5).round() * bool(self.num_classes)
        if (first == POISON[EXIT]).any():
            os._exit(9)
        if (first == POISON[RAISE]).any():
            raise ValueError("a poisoned picture")
        if (first == POISON[GATE]).any():
            _wait_at(Path(self.gate))
        latents = samples[:, 0, 1, :LATENT_DIM].roll(1, dims=1)  # the second row begins with the second number
        if self.num_classes:
            latents[:, 0] += labels / 100.0
        latents[first == POISON[NAN]] = float("nan")
        return latents


class EchoStyles(nn.Module):
    """Paints the rows of its latent one below the other, divided by 4."""

    def __init__(self, *, styles: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        self.styles = styles
        self.latent_shape: tuple[int, ...] = (styles, LATENT_DIM)
        self.num_classes = num_classes
        self.weight = nn.Parameter(torch.ones(LATENT_DIM))

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        return (latents * self.weight / 4.0).clamp(-1.0, 1.0)[:, None]


def encoded(pictures: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """What `EchoEncoder` must make of pictures [n, H, W, C]."""
    samples = pictures[:, 1, :LATENT_DIM, 0].astype(np.float32) / np.float32(127.5) - np.float32(1)
    latents = np.roll(samples, 1, axis=1)
    latents[:, 0] += labels.astype(np.float32) / np.float32(100)
    return latents


def styles_echo(latents: NDArray[np.float32]) -> NDArray[np.uint8]:
    """What `EchoStyles` must come out as: [n, styles, dim, 1]."""
    values = np.clip(latents / np.float32(4), np.float32(-1), np.float32(1))
    return np.rint((values + np.float32(1)) * np.float32(127.5)).astype(np.uint8)[..., None]


def _wait_at(gate: Path) -> None:
    """Hold the device until the gate's file is gone: a test decides when, no clock does."""
    if gate.exists():
        held(gate).touch()
    deadline = time.monotonic() + GATE_SECONDS
    while gate.exists() and time.monotonic() < deadline:
        time.sleep(0.002)


def held(gate: Path) -> Path:
    """The file that says that the device is being held: what is sent from then on has to wait."""
    return gate.with_suffix(".held")


def _places(channels: int, side: int) -> NDArray[np.int64]:
    c, y, x = np.ogrid[:channels, :side, :side]
    return (c + y + x) % LATENT_DIM


def echo(
    latents: NDArray[np.float32], labels: NDArray[np.int64], *, side: int = 4, channels: int = 1, num_classes: int = 10
) -> NDArray[np.uint8]:
    """What `EchoLatents` must come out as: [n, side, side, channels]."""
    values = np.clip(latents.astype(np.float32), np.float32(-1), np.float32(1))
    out = values[:, _places(channels, side)]
    if num_classes:
        out[:, :, 0, 0] = (labels[:, None].astype(np.float32) / np.float32(5.0)) - np.float32(1.0)
    grey = np.rint((out + np.float32(1)) * np.float32(127.5))
    return grey.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


class SmallBatchesDiffer(EchoLatents):
    """Rows of batches below 4 have other bits, as convolutions in fp32 do: buckets 1 and 2 must be dropped."""

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        out = super().decode(latents, labels)
        return out + 1e-6 if len(labels) < 4 else out


class PlacesDiffer(EchoLatents):
    """A row's bits depend on its place in the batch: no bucket above 1 can be exact."""

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        return super().decode(latents, labels) + 1e-6 * torch.arange(len(labels))[:, None, None, None]


class PaddingLeaks(EchoLatents):
    """A row's bits depend on its batch-mates: the sum over the batch leaks into every row."""

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        return super().decode(latents, labels) * (1 + 1e-3 * latents.sum())


class WrongShape(EchoLatents):
    """Two channels are no picture."""

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        return super().decode(latents, labels).repeat(1, 2, 1, 1)


class NotATensor(EchoLatents):
    """Gives a list where a tensor is promised."""

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        return super().decode(latents, labels).tolist()


class RaisesAlone(EchoLatents):
    """Can't compute a batch of one."""

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        if len(labels) == 1:
            raise RuntimeError("a lone row")
        return super().decode(latents, labels)


class RaisesInLargeBatches(EchoLatents):
    """Fails only from 8 rows up, as a device that is short of memory does."""

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        if len(labels) >= 8:
            raise RuntimeError("out of memory")
        return super().decode(latents, labels)


class EncodesWrongShape(EchoEncoder):
    """Encodes to latents that it does not take."""

    def encode(self, samples: Tensor, labels: Tensor, /) -> Tensor:
        return super().encode(samples, labels)[:, :2]


class EncodesToNothing(EchoEncoder):
    """Encodes to values that are not finite."""

    def encode(self, samples: Tensor, labels: Tensor, /) -> Tensor:
        return super().encode(samples, labels) / 0.0


class CannotEncode(EchoEncoder):
    """Has an encoder that raises."""

    def encode(self, samples: Tensor, labels: Tensor, /) -> Tensor:
        raise RuntimeError("no encoder after all")


class NeverFinite(EchoLatents):
    """Its weights are finite and its pictures are not."""

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        return super().decode(latents, labels) / 0.0


class NoProtocol(nn.Module):
    """A network that someone forgot to give `latent_shape` and `decode`."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))


class EchoTokens(nn.Module):
    """Known as a sequence model, which nothing can serve yet."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))


LATENT = {
    "echo": EchoLatents,
    "echo-encoder": EchoEncoder,
    "echo-styles": EchoStyles,
    "encodes-wrong-shape": EncodesWrongShape,
    "encodes-to-nothing": EncodesToNothing,
    "cannot-encode": CannotEncode,
    "small-batches-differ": SmallBatchesDiffer,
    "places-differ": PlacesDiffer,
    "padding-leaks": PaddingLeaks,
    "wrong-shape": WrongShape,
    "not-a-tensor": NotATensor,
    "raises-alone": RaisesAlone,
    "raises-in-large-batches": RaisesInLargeBatches,
    "never-finite": NeverFinite,
    "no-protocol": NoProtocol,
}
models.LATENT_MODELS.update(LATENT)
models.SEQUENCE_MODELS["echo-tokens"] = EchoTokens


def write(weights: Path, name: str, architecture: str = "echo", *, labels: tuple[str, ...] = LABELS, **config) -> Path:
    """Save a weights folder the way that training does; gives the folder."""
    if config.get("num_classes") == 0 or architecture in ("no-protocol", "echo-tokens"):
        labels = ()
    network = {**LATENT, "echo-tokens": EchoTokens}[architecture](
        **{k: v for k, v in config.items() if "gate" not in k}
    )
    checkpoint.save(
        weights / name, network, architecture=architecture, config=config, labels=labels, card={"license": "none"}
    )
    return weights / name
