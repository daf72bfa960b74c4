"""A recurrent language model of gated units (Cho et al. 2014), with tied embeddings (Press & Wolf 2017).

Knows its cells; knows no tokenizer, no sampling and no scheduling. What it remembers of a text is one vector a layer,
however long the text is: positions and spans mean nothing to it.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.decoder import FEW, check_sizes

Hidden = list[Tensor]  # of each layer, [slots, hidden]


class GRU(nn.Module):
    """Embedding, layers of gated recurrent units, and a product with the embedding; a `SequenceModel`.

    It is no `PrefixModel`: every token changes all that is remembered, so the beginning of a text can't be had back.

    Attributes:
        embedding: of tokens; its dtype is that of the state.
        cells: the layers.
        out: from the last layer to the width of the embedding.
        head: None, for products with the embedding.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        max_length: int = 4096,
        width: int = 256,
        hidden: int = 384,
        layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        """Build the network.

        Args:
            vocab_size: number of tokens V.
            max_length: positions in a slot, prompt included. Memory does not depend on it, so it only bounds a text.
            width: of the embedding.
            hidden: numbers that a layer remembers.
            layers: cells on top of each other.
            dropout: share of what layers say that is left out in training (Zaremba et al. 2014).

        Raises:
            ValueError: a size is not positive, or the dropout is no share.
        """
        super().__init__()
        check_sizes(vocab_size=vocab_size, max_length=max_length, width=width, hidden=hidden, layers=layers)
        self.vocab_size, self.max_length, self.hidden = vocab_size, max_length, hidden
        self.embedding = nn.Embedding(vocab_size, width)
        self.cells = nn.ModuleList(_Cell(hidden if layer else width, hidden) for layer in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, width)
        self.head: nn.Module | None = None
        nn.init.normal_(self.embedding.weight, std=0.05)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits after every position of texts that begin here: [B, T] -> [B, T, V]."""
        x = self.dropout(self.embedding(tokens)).transpose(0, 1)
        for cell in self.cells:
            x = self.dropout(cell(x, x.new_zeros(x.shape[1], self.hidden)))
        return self._logits(x.transpose(0, 1))

    def init_state(self, slots: int, /) -> Hidden:
        """Allocate what all slots remember, on the network's device and in its dtype."""
        return [self.embedding.weight.new_zeros(slots, self.hidden) for _ in self.cells]

    def prefill(
        self,
        tokens: Tensor,
        starts: Sequence[int],
        lengths: Sequence[int],
        slots: Sequence[int],
        state: Hidden,
        /,
    ) -> Tensor:
        """Read the next piece of each prompt, tokens [B, T], into its slot: logits after each piece, [B, V].

        A row whose piece is over, or that fills a small batch up, goes on and is forgotten.
        """
        rows = [*range(len(slots)), *[len(slots) - 1] * (FEW - len(slots))]
        x = self.embedding(tokens[rows]).transpose(0, 1)
        goes_on = torch.tensor([starts[row] > 0 for row in rows], device=x.device)[:, None]
        places, last = [slots[row] for row in rows], [lengths[row] - 1 for row in rows]
        for cell, held in zip(self.cells, state, strict=True):
            x = cell(x, torch.where(goes_on, held[places], 0))
            held[places] = x[last, range(len(rows))]
        return self._logits(x[last, range(len(rows))])[: len(slots)]

    def step(self, tokens: Tensor, _positions: Tensor, _span: int, state: Hidden, /) -> Tensor:
        """Advance rows 0..R-1 by one token [R]: logits [R, V]."""
        x = self.embedding(tokens)[None]
        for cell, held in zip(self.cells, state, strict=True):
            x = cell(x, held[: len(tokens)])
            held[: len(tokens)] = x[0]
        return self._logits(x[0])

    def _logits(self, x: Tensor) -> Tensor:
        x = self.dropout(self.out(x))
        logits: Tensor = F.linear(x, self.embedding.weight) if self.head is None else self.head(x)
        return logits


class _Cell(nn.Module):
    """One layer: gates r and z and the proposal n, in this order, as in `torch.nn.GRU`.

    The products with a whole text's inputs are one; those with what is remembered can only be made token by token.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.inputs = nn.Linear(inputs, 3 * hidden)
        self.recurrent = nn.Linear(hidden, 3 * hidden)

    def forward(self, x: Tensor, held: Tensor) -> Tensor:
        """[T, B, inputs] and what was remembered before, [B, hidden] -> the same after each token, [T, B, hidden]."""
        found = []
        for projected in self.inputs(x):
            held = self._next(projected, held)
            found.append(held)
        return torch.stack(found)

    def _next(self, projected: Tensor, held: Tensor) -> Tensor:
        """One token: the inputs' products [B, 3 * hidden] and what was remembered [B, hidden] -> what is now."""
        remembered, both = self.recurrent(held), 2 * self.hidden
        reset, keep = torch.sigmoid(projected[:, :both] + remembered[:, :both]).chunk(2, -1)
        proposal = torch.tanh(torch.addcmul(projected[:, both:], reset, remembered[:, both:]))
        # what is remembered stays in its own precision under autocast: bf16 loses slow changes
        return torch.lerp(proposal.to(held.dtype), held, keep.to(held.dtype))
