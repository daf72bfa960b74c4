"""What all decoder-only transformers share: running blocks over whole texts, pieces of prompts and single steps.

Knows the order of things; knows no block. The engine owns positions, the networks own the memory behind a slot.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Cache, Heads, Pieces, Places, Rotation, Step, Whole

FEW = 4  # products of fewer rows have other bits than those of more
Attention = Callable[[int, Tensor], Tensor]


class Decoder(nn.Module):
    """A `SequenceModel` and `PrefixModel`, once a subclass has made its parts.

    A block is called with (x, layer, attention): the residual stream [..., width], its own number, and what turns
    projected heads [..., total, dim] into what they attend to, [..., queries * dim].

    Attributes:
        vocab_size: number of tokens V.
        max_length: positions in a slot, prompt included.
        heads: of every block.
        embedding: of tokens; its dtype is that of the residual stream and the cache.
        blocks: the layers.
        prompt_blocks: the layers as prompts go through them, where they are packed for that; None for the same.
        norm: before the head.
        head: from the residual stream to logits; None for products with the embedding.
    """

    vocab_size: int
    max_length: int
    heads: Heads
    embedding: nn.Embedding
    blocks: nn.ModuleList
    prompt_blocks: list[nn.Module] | None = None
    norm: nn.Module
    head: nn.Module | None

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits after every position, without a cache: [B, T] -> [B, T, V], T <= max_length."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        attention = Whole(self.heads, self._rotation(positions))
        return self._logits(self._run(self.blocks, self._embed(tokens, positions), attention))

    def init_state(self, slots: int, /) -> Cache:
        """Allocate keys and values of all slots on the network's device, in its dtype."""
        return Cache.allocate(len(self.blocks), slots, self.max_length, self.heads, self.embedding.weight)

    def prefill(
        self,
        tokens: Tensor,
        starts: Sequence[int],
        lengths: Sequence[int],
        slots: Sequence[int],
        state: Cache,
        /,
    ) -> Tensor:
        """Read the next piece of each prompt, tokens [B, T], into its slot: logits after each piece, [B, V].

        Padding is dropped first: every product sees the tokens of all pieces, one after another, and nothing else.
        """
        packed = torch.cat([row[:length] for row, length in zip(tokens, lengths, strict=True)])
        places = Places(starts, lengths, slots, tokens.device)
        attention = Pieces(self.heads, self._rotation(places.positions), state, places)
        blocks = self.prompt_blocks or self.blocks
        x = self._run(blocks, self._embed(_filled(packed), _filled(places.positions)), attention)
        last = _filled(torch.tensor(lengths).cumsum(0) - 1)
        return self._logits(x[last.to(x.device)])[: len(lengths)]

    def step(self, tokens: Tensor, positions: Tensor, span: int, state: Cache, /) -> Tensor:
        """Advance rows 0..R-1: tokens [R] at positions [R], each live one < span: logits [R, V]."""
        attention = Step(self.heads, self._rotation(positions), state, positions, span)
        return self._logits(self._run(self.blocks, self._embed(tokens, positions), attention))

    def copy_slot(self, source: int, target: int, length: int, state: Cache, /) -> None:
        """Make the first `length` positions of slot `target` those of slot `source`, bit by bit."""
        state.copy(source, target, length)

    def _run(self, blocks: Iterable[nn.Module], x: Tensor, attention: Attention) -> Tensor:
        for layer, block in enumerate(blocks):
            x = block.forward(x, layer, attention)  # called straight: a block is a few small operations
        return x

    def _embed(self, tokens: Tensor, _positions: Tensor) -> Tensor:
        embedded: Tensor = self.embedding(tokens)
        return embedded

    def _rotation(self, _positions: Tensor) -> Rotation | None:
        """What turns the heads at these positions [N]; None for a network with positions of another kind."""
        return None

    def _logits(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        logits: Tensor = F.linear(x, self.embedding.weight) if self.head is None else self.head(x)
        return logits


def _filled(rows: Tensor) -> Tensor:
    """The last row once more, until there are enough for the bits that every row has among many others."""
    missing = FEW - len(rows)
    return torch.cat([rows, rows[-1:].expand(missing)]) if missing > 0 else rows


def check_sizes(**sizes: int) -> None:
    """Raises a ValueError that names the first of these arguments that is no positive whole number."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name} {size!r} is not a positive whole number")


def check_eps(eps: float) -> None:
    """Raises a ValueError for what can't be added to a variance."""
    if not isinstance(eps, int | float) or not 0 <= eps < 1:
        raise ValueError(f"norm_eps {eps} is not a number from 0 to 1")
