"""A decoder-only transformer (Radford et al. 2019) with rotary positions, RMSNorm and tied embeddings.

Knows its blocks; knows no tokenizer, no sampling and no scheduling.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Heads, Rotary, Rotation, frequencies
from models.decoder import Attention, Decoder

ROPE_BASE = 10_000.0


class GPT(Decoder):
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
        if width % (2 * heads):
            raise ValueError(f"width {width} is not a multiple of 2 * heads ({2 * heads})")
        self.vocab_size, self.max_length = vocab_size, max_length
        self.heads = Heads(heads, heads, width // heads)
        self.rotary = Rotary(max_length, self.heads, frequencies(self.heads.dim, ROPE_BASE))
        self.embedding = nn.Embedding(vocab_size, width)
        self.blocks = nn.ModuleList(_Block(width, self.heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.head = None
        self._initialise()

    def _initialise(self) -> None:
        """GPT-2's: normal of 0.02; what writes into the residual stream is scaled down by its depth."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                depth = 2 * len(self.blocks) if name.endswith("out.weight") else 1
                nn.init.normal_(parameter, std=0.02 / math.sqrt(depth))

    def _rotation(self, positions: Tensor) -> Rotation:
        rotation: Rotation = self.rotary(positions)
        return rotation


class _Block(nn.Module):
    """Attention and a feed-forward layer, each behind a norm and beside a residual."""

    def __init__(self, width: int, heads: Heads) -> None:
        super().__init__()
        self._heads = heads
        self.attention_norm = nn.RMSNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.feed_norm = nn.RMSNorm(width, eps=1e-6)
        self.feed_in = nn.Linear(width, 4 * width, bias=False)
        self.feed_out = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, layer: int, attention: Attention) -> Tensor:
        """[..., W] -> the same."""
        projected = self._heads.unfold(self.qkv(self.attention_norm(x)))
        x = x + self.attention_out(attention(layer, projected))
        out: Tensor = x + self.feed_out(F.gelu(self.feed_in(self.feed_norm(x))))
        return out
