"""Tensors of a GGUF file in Hugging Face's names and layouts, dequantised by the `gguf` package.

Knows what llama.cpp's converters did to names and rows, and undoes it.
"""

import re
from collections.abc import Iterable

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from torch import Tensor

from training.errors import TrainingError
from training.importing.gguf_file import Entry, GgufFile

CHUNK = 1 << 22  # numbers that are dequantised at once
PLAIN = {Kind.F32: torch.float32, Kind.F16: torch.float16, Kind.BF16: torch.bfloat16}
QUANTISED = (
    Kind.Q4_0,
    Kind.Q4_1,
    Kind.Q5_0,
    Kind.Q5_1,
    Kind.Q8_0,
    Kind.Q2_K,
    Kind.Q3_K,
    Kind.Q4_K,
    Kind.Q5_K,
    Kind.Q6_K,
)
LLAMA = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "model.layers.{}.input_layernorm",
    "attn_q": "model.layers.{}.self_attn.q_proj",
    "attn_k": "model.layers.{}.self_attn.k_proj",
    "attn_v": "model.layers.{}.self_attn.v_proj",
    "attn_output": "model.layers.{}.self_attn.o_proj",
    "attn_q_norm": "model.layers.{}.self_attn.q_norm",
    "attn_k_norm": "model.layers.{}.self_attn.k_norm",
    "ffn_norm": "model.layers.{}.post_attention_layernorm",
    "ffn_gate": "model.layers.{}.mlp.gate_proj",
    "ffn_up": "model.layers.{}.mlp.up_proj",
    "ffn_down": "model.layers.{}.mlp.down_proj",
}
GPT2 = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "attn_norm": "transformer.h.{}.ln_1",
    "attn_qkv": "transformer.h.{}.attn.c_attn",
    "attn_output": "transformer.h.{}.attn.c_proj",
    "ffn_norm": "transformer.h.{}.ln_2",
    "ffn_up": "transformer.h.{}.mlp.c_fc",
    "ffn_down": "transformer.h.{}.mlp.c_proj",
}
NAME = re.compile(r"(?:blk\.(\d{1,5})\.)?(\w+)\.(weight|bias)")


class GgufTensors:
    """All tensors but those that only stretch positions."""

    def __init__(
        self, file: GgufFile, names: dict[str, str], permuted: dict[str, int], transposed: tuple[str, ...] = ()
    ) -> None:
        """Tensors of a file.

        Args:
            file: it.
            names: their names by GGUF's.
            permuted: heads of those whose rows stand in pairs, by the ends of their names.
            transposed: ends of the names of those that lie the other way round in Hugging Face's layout.

        Raises:
            TrainingError: tensors overlap, or are of a type that can't be read.
        """
        self._file, self._permuted, self._transposed = file, permuted, transposed
        self._entries = {_renamed(name, names): name for name in file.entries if name != "rope_freqs.weight"}
        if len(self._entries) < len(file.entries) - ("rope_freqs.weight" in file.entries):
            raise TrainingError(f"{file.path}: damaged: a tensor comes under two names")
        _check_places(file)

    def names(self) -> Iterable[str]:
        """Of all tensors."""
        return self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor."""
        shape: tuple[int, ...] = self._file.entries[self._entries[name]].shape
        return shape[::-1] if name.endswith(self._transposed) else shape

    def read(self, name: str) -> Tensor:
        """One tensor: as it is, or in float32 when it was quantised.

        Raises:
            TrainingError: it is cut off.
        """
        tensor = read_tensor(self._file, self._entries[name])
        if name.endswith(self._transposed):
            return tensor.T
        for end, heads in self._permuted.items():
            tensor = _in_halves(tensor, heads) if name.endswith(end) else tensor
        return tensor


def _renamed(name: str, names: dict[str, str]) -> str:
    """Hugging Face's name; a name that nobody knows stays, to be refused by it."""
    match = NAME.fullmatch(name)
    theirs = names.get(match[2]) if match else None
    if match is None or theirs is None or (match[1] is None) == ("{}" in theirs):
        return name
    return f"{theirs.format(match[1])}.{match[3]}"


def _in_halves(tensor: Tensor, heads: int) -> Tensor:
    """Undo llama.cpp's order of rows: rotary pairs next to each other instead of half a head apart."""
    rows = tensor.unflatten(0, (heads, -1, 2))  # type: ignore[no-untyped-call]  # torch leaves it untyped
    swapped: Tensor = rows.transpose(1, 2).flatten(0, 2)
    return swapped


def _check_places(file: GgufFile) -> None:
    """Each tensor lies in the file, and in no other's place: a small file can't say more than it holds."""
    end = 0
    for name, entry in sorted(file.entries.items(), key=lambda pair: pair[1].offset):
        size = _size(file, name, entry)
        if entry.offset < end:
            raise TrainingError(f"{file.path}: damaged: {name} overlaps another tensor")
        file.data(name, size)
        end = entry.offset + size


def _size(file: GgufFile, name: str, entry: Entry) -> int:
    kind = next((kind for kind in (*PLAIN, *QUANTISED) if kind == entry.kind), None)
    if kind is None:
        said = next((known.name for known in Kind if known == entry.kind), str(entry.kind))
        names = ", ".join(known.name for known in (*PLAIN, *QUANTISED))
        raise TrainingError(f"{file.path}: {name} is of type {said}, which is not supported (known: {names})")
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if entry.shape[-1] % block:
        raise TrainingError(f"{file.path}: damaged: {name} has rows of {entry.shape[-1]}, no multiple of {block}")
    elements = 1
    for dimension in entry.shape:
        elements *= dimension
    return elements // block * size


def read_tensor(file: GgufFile, name: str) -> Tensor:
    """One tensor under its own name and in its own layout.

    Raises:
        TrainingError: it is cut off.
    """
    entry = file.entries[name]
    data = np.frombuffer(file.data(name, _size(file, name, entry)), np.uint8)
    kind = Kind(entry.kind)
    if kind in PLAIN:
        return torch.from_numpy(data.copy()).view(PLAIN[kind]).view(entry.shape)
    rows = data.reshape(-1, gguf.GGML_QUANT_SIZES[kind][1] * (entry.shape[-1] // gguf.GGML_QUANT_SIZES[kind][0]))
    out = np.empty((len(rows), entry.shape[-1]), np.float32)
    step = max(1, CHUNK // entry.shape[-1])
    for first in range(0, len(rows), step):
        out[first : first + step] = gguf.dequantize(rows[first : first + step], kind)
    return torch.from_numpy(out).view(entry.shape)
