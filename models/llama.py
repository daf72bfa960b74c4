"""The Llama family (Touvron et al. 2023; Grattafiori et al. 2024), Mistral, Qwen2 and Qwen3 among it.

Knows its blocks and how rotary positions are stretched; knows no tokenizer, no sampling and no scheduling.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Heads, Rotary, Rotation, frequencies
from models.decoder import Attention, Decoder, check_eps, check_sizes

SCALINGS = {
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_length"},
}


class Llama(Decoder):
    """Pre-norm transformer: RMSNorm, RoPE, grouped-query attention, SwiGLU (Shazeer 2020); a `SequenceModel`."""

    def __init__(
        self,
        *,
        vocab_size: int,
        max_length: int,
        width: int,
        layers: int,
        heads: int,
        key_heads: int,
        head_dim: int,
        feed_width: int,
        norm_eps: float = 1e-5,
        rope_base: float = 10_000.0,
        rope_scaling: Mapping[str, Any] | None = None,
        tied: bool = False,
        qkv_bias: bool = False,
        head_norms: bool = False,
    ) -> None:
        """Build the network.

        Args:
            vocab_size: number of tokens V.
            max_length: positions in a slot, prompt included.
            width: of the residual stream.
            layers: number of blocks.
            heads: query heads of a block.
            key_heads: heads of keys and of values; they divide the query heads.
            head_dim: features of a head; even.
            feed_width: inner width of the feed-forward layer.
            norm_eps: added to the mean square in every norm.
            rope_base: of the rotary frequencies.
            rope_scaling: {"type": "linear", "factor"} or {"type": "llama3", "factor", "low_freq_factor",
                "high_freq_factor", "original_max_length"}; None for plain frequencies.
            tied: the head is the embedding.
            qkv_bias: queries, keys and values have biases (Qwen2).
            head_norms: queries and keys pass an RMSNorm a head (Qwen3).

        Raises:
            ValueError: an argument makes no such network; the message names it.
        """
        super().__init__()
        check_sizes(vocab_size=vocab_size, max_length=max_length, width=width, layers=layers, feed_width=feed_width)
        check_sizes(heads=heads, key_heads=key_heads, head_dim=head_dim)
        check_eps(norm_eps)
        self.vocab_size, self.max_length = vocab_size, max_length
        self.heads = Heads(heads, key_heads, head_dim)
        scaled = scale_frequencies(frequencies(head_dim, rope_base), rope_scaling)
        self.rotary = Rotary(max_length, self.heads, scaled)
        self.embedding = nn.Embedding(vocab_size, width)
        self.blocks = nn.ModuleList(
            _Block(width, feed_width, self.heads, norm_eps, qkv_bias, head_norms) for _ in range(layers)
        )
        self.norm = nn.RMSNorm(width, eps=norm_eps)
        self.head = None if tied else nn.Linear(width, vocab_size, bias=False)

    def _rotation(self, positions: Tensor) -> Rotation:
        rotation: Rotation = self.rotary(positions)
        return rotation


class _Block(nn.Module):
    """Attention and a gated feed-forward layer, each behind a norm and beside a residual."""

    def __init__(self, width: int, feed_width: int, heads: Heads, eps: float, qkv_bias: bool, head_norms: bool) -> None:
        super().__init__()
        self._heads = heads
        self.attention_norm = nn.RMSNorm(width, eps=eps)
        self.qkv = nn.Linear(width, heads.total * heads.dim, bias=qkv_bias)
        self.head_norms = _HeadNorms(heads, eps) if head_norms else None
        self.attention_out = nn.Linear(heads.queries * heads.dim, width, bias=False)
        self.feed_norm = nn.RMSNorm(width, eps=eps)
        self.gate_up = nn.Linear(width, 2 * feed_width, bias=False)
        self.feed_out = nn.Linear(feed_width, width, bias=False)

    def forward(self, x: Tensor, layer: int, attention: Attention) -> Tensor:
        """[..., W] -> the same."""
        projected = self._heads.unfold(self.qkv(self.attention_norm(x)))
        if self.head_norms is not None:
            projected = self.head_norms(projected)
        x = x + self.attention_out(attention(layer, projected))
        gate, up = self.gate_up(self.feed_norm(x)).chunk(2, -1)
        out: Tensor = x + self.feed_out(F.silu(gate) * up)
        return out


class _HeadNorms(nn.Module):
    """An RMSNorm over every query head and one over every key head; values pass."""

    def __init__(self, heads: Heads, eps: float) -> None:
        super().__init__()
        self._heads = heads
        self.query = nn.RMSNorm(heads.dim, eps=eps)
        self.key = nn.RMSNorm(heads.dim, eps=eps)

    def forward(self, projected: Tensor) -> Tensor:
        """[..., total, dim] -> the same."""
        q, k, v = self._heads.split(projected)
        return torch.cat([self.query(q), self.key(k), v], -2)


def scale_frequencies(plain: Tensor, scaling: Mapping[str, Any] | None) -> Tensor:
    """Rotary frequencies [dim / 2] stretched to longer texts than the network first learnt.

    "linear" (Chen et al. 2023) divides all by the factor; "llama3" (Grattafiori et al. 2024) only those whose waves are
    longer than the original texts divided by `low_freq_factor`, with a ramp up to waves `high_freq_factor` shorter.

    Raises:
        ValueError: another type, or a field is missing, unknown or no positive number.
    """
    if scaling is None:
        return plain
    fields = {name: value for name, value in scaling.items() if name != "type"} if isinstance(scaling, Mapping) else {}
    kind = str(scaling["type"]) if fields and "type" in scaling else ""
    if fields.keys() != SCALINGS.get(kind):
        raise ValueError(f"rope_scaling {scaling!r} is none of {sorted(SCALINGS)} with its fields")
    if not all(isinstance(value, int | float) and 0 < value < math.inf for value in fields.values()):
        raise ValueError(f"rope_scaling {scaling!r} holds something else than positive numbers")
    return plain / fields["factor"] if kind == "linear" else _llama3(plain, **fields)


def _llama3(
    plain: Tensor, factor: float, low_freq_factor: float, high_freq_factor: float, original_max_length: float
) -> Tensor:
    if high_freq_factor <= low_freq_factor:
        raise ValueError(f"rope_scaling: high_freq_factor {high_freq_factor} is not above low_freq_factor")
    waves = original_max_length * plain / (2 * math.pi)  # that fit in an original text
    ramp = ((waves - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)
    return (1 - ramp) * plain / factor + ramp * plain
