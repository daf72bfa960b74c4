"""GPT-2 (Radford et al. 2019) as published: learned positions, LayerNorm, biases, tied embeddings.

Knows its blocks; knows no tokenizer, no sampling and no scheduling.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Heads, check_length
from models.decoder import Attention, Decoder, check_eps, check_sizes


class GPT2(Decoder):
    """Pre-norm transformer with learned positions and the tanh form of GELU; a `SequenceModel`."""

    def __init__(
        self,
        *,
        vocab_size: int,
        max_length: int,
        width: int,
        layers: int,
        heads: int,
        feed_width: int,
        norm_eps: float = 1e-5,
    ) -> None:
        """Build the network.

        Args:
            vocab_size: number of tokens V.
            max_length: positions in a slot, prompt included; each has its learned vector.
            width: of the residual stream; a multiple of heads.
            layers: number of blocks.
            heads: attention heads of a block.
            feed_width: inner width of the feed-forward layer.
            norm_eps: added to the variance in every norm.

        Raises:
            ValueError: a number is not positive, or the width is not a multiple of heads.
        """
        super().__init__()
        check_sizes(vocab_size=vocab_size, width=width, layers=layers, heads=heads, feed_width=feed_width)
        check_length(max_length)
        check_eps(norm_eps)
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads ({heads})")
        self.vocab_size, self.max_length = vocab_size, max_length
        self.heads = Heads(heads, heads, width // heads)
        self.embedding = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(max_length, width)
        self.blocks = nn.ModuleList(_Block(width, feed_width, self.heads, norm_eps) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.head = None

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        embedded: Tensor = self.embedding(tokens) + self.positions(positions)
        return embedded


class _Block(nn.Module):
    """Attention and a feed-forward layer, each behind a norm and beside a residual."""

    def __init__(self, width: int, feed_width: int, heads: Heads, eps: float) -> None:
        super().__init__()
        self._heads = heads
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width, eps=eps)
        self.feed_in = nn.Linear(width, feed_width)
        self.feed_out = nn.Linear(feed_width, width)

    def forward(self, x: Tensor, layer: int, attention: Attention) -> Tensor:
        """[..., W] -> the same."""
        projected = self._heads.unfold(self.qkv(self.attention_norm(x)))
        x = x + self.attention_out(attention(layer, projected))
        out: Tensor = x + self.feed_out(F.gelu(self.feed_in(self.feed_norm(x)), approximate="tanh"))
        return out
