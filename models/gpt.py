"""A decoder-only transformer (Radford et al. 2019) with rotary positions, RMSNorm and tied embeddings.

Knows attention and its cache; knows no tokenizer, no sampling and no scheduling: the engine owns positions, this file
owns the memory behind a slot.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROPE_BASE = 10_000.0
MAX_LENGTH = 1 << 20  # tables of positions take memory beside the parameters


@dataclass(frozen=True)
class GPTState:
    """Keys and values of all slots, allocated once.

    Attributes:
        keys: one tensor a layer, [slots, heads, max_length, head_dim], rotated.
        values: likewise, as projected.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


class GPT(nn.Module):
    """Pre-norm transformer: RMSNorm (Zhang & Sennrich 2019), RoPE (Su et al. 2021), GELU; a `SequenceModel`."""

    def __init__(
        self, *, vocab_size: int, max_length: int = 512, width: int = 256, layers: int = 6, heads: int = 8
    ) -> None:
        """Build the network.

        Args:
            vocab_size: number of tokens V.
            max_length: positions in a slot, prompt included.
            width: of the residual stream; a multiple of 2 * heads.
            layers: number of blocks.
            heads: attention heads of a block.

        Raises:
            ValueError: the width is not a multiple of 2 * heads (rotary positions turn pairs of features), or the table
                of positions would be larger than anybody needs.
        """
        super().__init__()
        if not 1 <= max_length <= MAX_LENGTH:
            raise ValueError(f"max_length {max_length} is not between 1 and {MAX_LENGTH}")
        if width % (2 * heads):
            raise ValueError(f"width {width} is not a multiple of 2 * heads ({2 * heads})")
        self.vocab_size = vocab_size
        self.max_length = max_length
        self._heads, self._head_dim = heads, width // heads
        self.embedding = nn.Embedding(vocab_size, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        angles = _angles(max_length, self._head_dim)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """GPT-2's: normal of 0.02; what writes into the residual stream is scaled down by its depth."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                depth = 2 * len(self.blocks) if name.endswith("out.weight") else 1
                nn.init.normal_(parameter, std=0.02 / math.sqrt(depth))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits after every position, without a cache: [B, T] -> [B, T, V], T <= max_length."""
        rotation = self._rotation(torch.arange(tokens.shape[1], device=tokens.device))
        x = self.embedding(tokens)
        for block in self.blocks:
            x, _, _ = block(x, rotation)
        return self._logits(x)

    def init_state(self, slots: int, /) -> GPTState:
        """Allocate keys and values of all slots on the network's device, in its dtype."""
        shape = (slots, self._heads, self.max_length, self._head_dim)
        weight = self.embedding.weight
        # Zeros, not empty: rows are read up to a common span, and garbage may hold NaN, which no mask removes.
        keys = tuple(torch.zeros(shape, device=weight.device, dtype=weight.dtype) for _ in self.blocks)
        return GPTState(keys, tuple(torch.zeros_like(k) for k in keys))

    def prefill(self, tokens: Tensor, lengths: Tensor, slots: Tensor, state: GPTState, /) -> Tensor:
        """Read prompts [B, T] (right-padded, lengths [B]) into slots [B]: logits after each prompt, [B, V].

        The keys of padding land in the cache too; they lie beyond the row's position and are overwritten before it
        gets there.
        """
        rotation = self._rotation(torch.arange(tokens.shape[1], device=tokens.device))
        x = self.embedding(tokens)
        for layer, block in enumerate(self.blocks):
            x, k, v = block(x, rotation)
            state.keys[layer][slots, :, : tokens.shape[1]] = k
            state.values[layer][slots, :, : tokens.shape[1]] = v
        last = x[torch.arange(len(lengths), device=x.device), lengths - 1]
        return self._logits(last)

    def step(self, tokens: Tensor, positions: Tensor, span: int, state: GPTState, /) -> Tensor:
        """Advance rows 0..R-1: tokens [R] at positions [R], each live one < span: logits [R, V]."""
        rows = torch.arange(len(tokens), device=tokens.device)
        cos, sin = self._rotation(positions)
        rotation = cos[:, None, None], sin[:, None, None]  # [R, 1, 1, D / 2]: every row has its own position
        mask = (torch.arange(span, device=tokens.device) <= positions[:, None])[:, None, None]
        x = self.embedding(tokens)[:, None]
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            x = block.step(x, rotation, mask, rows, positions, state.keys[layer], state.values[layer])
        return self._logits(x[:, 0])

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self.cos[positions], self.sin[positions]  # type: ignore[index]  # buffers are typed Tensor | Module

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(x), self.embedding.weight)


class _Block(nn.Module):
    """Attention and a feed-forward layer, each behind a norm and beside a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.attention_norm = nn.RMSNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.feed_norm = nn.RMSNorm(width, eps=1e-6)
        self.feed_in = nn.Linear(width, 4 * width, bias=False)
        self.feed_out = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, W] -> the same, with keys and values [B, heads, T, D]."""
        q, k, v = self._project(x, rotation)
        x = self._mix(x, F.scaled_dot_product_attention(q, k, v, is_causal=True))
        return x, k, v

    def step(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor,
        rows: Tensor,
        positions: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        """[R, 1, W] -> the same; writes this position into the cache and reads the first `span` of it."""
        q, k, v = self._project(x, rotation)
        keys[rows, :, positions] = k[:, :, 0]
        values[rows, :, positions] = v[:, :, 0]
        live, span = len(x), mask.shape[-1]
        attended = F.scaled_dot_product_attention(q, keys[:live, :, :span], values[:live, :, :span], attn_mask=mask)
        return self._mix(x, attended)

    def _project(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self._heads, -1)).transpose(1, 3)  # [B, H, 3, T, D]
        q, k, v = qkv.unbind(2)
        return _rotate(q, rotation), _rotate(k, rotation), v

    def _mix(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.attention_out(attended.transpose(1, 2).flatten(2))
        out: Tensor = x + self.feed_out(F.gelu(self.feed_in(self.feed_norm(x))))
        return out


def _angles(length: int, head_dim: int) -> Tensor:
    """Rotary angles [length, head_dim / 2]."""
    frequencies = ROPE_BASE ** (-torch.arange(0, head_dim, 2).float() / head_dim)
    return torch.outer(torch.arange(length).float(), frequencies)


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair of features (i, i + D / 2) by its angle: [..., T, D]."""
    cos, sin = (part.to(x.dtype) for part in rotation)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
