"""What each slot remembers for sampling: the tokens of its prompt, how often each was generated, and its bias."""

from collections.abc import Sequence

import torch
from torch import Tensor

from app.engine.jobs import Sampling


class Tally:
    """Tables of all slots; a slot whose sampling does not ask for one leaves it as it lies, unread.

    Attributes:
        prompt: [slots, V] bool, whether a token is in the prompt.
        generated: [slots, V] int32, how often it was drawn.
        bias: [slots, V], added to logits.
    """

    def __init__(self, slots: int, vocab_size: int, device: torch.device) -> None:
        """Allocate the tables, once."""
        shape = (slots, vocab_size)
        self._device = device
        self.prompt = torch.zeros(shape, dtype=torch.bool, device=device)
        self.generated = torch.zeros(shape, dtype=torch.int32, device=device)
        self.bias = torch.zeros(shape, device=device)

    def prepare(self, slot: int, prompt: Sequence[int], chosen: Sampling) -> None:
        """Begin a sequence of this prompt, as far as its sampling will ask."""
        if chosen.penalised:
            self.prompt[slot] = False
            self.prompt[slot, self._tensor(prompt)] = True
            self.generated[slot] = 0
        if chosen.bias:
            ids, values = zip(*chosen.bias, strict=True)
            self.bias[slot] = 0.0
            self.bias[slot, self._tensor(ids)] = torch.tensor(values, dtype=torch.float32, device=self._device)

    def count(self, slots: Tensor, tokens: Tensor, drawn: Tensor) -> None:
        """Add one for the token [N] of each slot [N] whose token was drawn, [N] bool."""
        self.generated[slots, tokens] += drawn.int()

    def _tensor(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor(ids, dtype=torch.int64, device=self._device)
