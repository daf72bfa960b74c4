"""One live row of a tick: what its next token is drawn with."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.engine.jobs import Sampling


@dataclass(frozen=True)
class Row:
    """One live row at the start of a tick.

    Attributes:
        token: the last token, not yet read by the network.
        position: where it goes.
        seed: of the row's noise.
        sampling: how to draw.
        forced: tokens that the next steps must give, instead of drawn ones.
        barred: tokens that may not be drawn yet.
        barred_for: steps for which they may not.
        allowed: [V], the tokens that may be drawn in the next step; None for all. Such a row makes one step a tick.
    """

    token: int
    position: int
    seed: int
    sampling: Sampling
    forced: tuple[int, ...] = ()
    barred: tuple[int, ...] = ()
    barred_for: int = 0
    allowed: NDArray[np.bool_] | None = None

    @property
    def likeliest(self) -> bool:
        """Whether the row takes the network's likeliest token as it is."""
        chosen = self.sampling
        return (
            chosen.temperature == 0
            and not chosen.penalised
            and not chosen.bias
            and not self.barred_for
            and self.allowed is None
        )
