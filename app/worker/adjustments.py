"""What is done to logits before a token is drawn: bias, penalties, and the tokens that may not be.

Rows are adjusted in float32, each by what it asks for itself.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from app.worker import sampling
from app.worker.row import Row
from app.worker.tally import Tally


class Adjustments:
    """Of the rows of one tick, gathered before its first step, so that the steps copy nothing."""

    def __init__(self, rows: Sequence[Row], slots: Sequence[int], count: int, tally: Tally, device: torch.device):
        """Rows that stand in these slots of the tally, for `count` steps."""
        self._tally, self._device = tally, device
        self._biased = self._places([bool(row.sampling.bias) for row in rows])
        self._bias = tally.bias[[slots[place] for place in self._biased.tolist()]]
        penalised = [row.sampling.penalised for row in rows]
        self._penalised = self._places(penalised)
        self._slots = torch.tensor(slots, device=device)[self._penalised]
        self._penalties = sampling.as_penalties([row.sampling for row in rows if row.sampling.penalised], device)
        self._prompt = tally.prompt[self._slots]
        self._masked = self._places([row.allowed is not None for row in rows])
        self._masks = self._forbidden([row for row in rows if row.allowed is not None])
        self._barred = [self._barred_at(rows, step) for step in range(count)]

    def _places(self, chosen: Sequence[bool]) -> Tensor:
        return torch.tensor([place for place, own in enumerate(chosen) if own], dtype=torch.int64, device=self._device)

    def _forbidden(self, rows: Sequence[Row]) -> Tensor | None:
        masks = [~row.allowed for row in rows if row.allowed is not None]
        return torch.from_numpy(np.stack(masks)).to(self._device) if masks else None

    def _barred_at(self, rows: Sequence[Row], step: int) -> tuple[Tensor, Tensor] | None:
        """Rows and tokens that may not come together in a step."""
        pairs = [(place, token) for place, row in enumerate(rows) if row.barred_for > step for token in row.barred]
        if not pairs:
            return None
        places, tokens = torch.tensor(pairs, device=self._device).unbind(dim=1)
        return places, tokens

    def adjust(self, logits: Tensor, step: int) -> Tensor:
        """Logits [R, V] in float32, a copy of its own, as they are drawn from in a step; changes them in place."""
        if len(self._biased):
            logits[self._biased] += self._bias
        if len(self._penalised):
            own, counts = logits[self._penalised], self._tally.generated[self._slots]
            logits[self._penalised] = sampling.penalise(own, self._penalties, self._prompt, counts)
        if self._masks is not None:
            logits[self._masked] = logits[self._masked].masked_fill(self._masks, -math.inf)
        if (barred := self._barred[step]) is not None:
            logits[barred] = -math.inf
        return logits

    def count(self, tokens: Tensor, drawn: Tensor) -> None:
        """Remember the tokens [R] that were drawn, [R] bool, where penalties ask for them."""
        if len(self._penalised):
            self._tally.count(self._slots, tokens[self._penalised], drawn[self._penalised])
