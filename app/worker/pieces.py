"""Prompts are read in pieces whose edges lie on an absolute grid, whatever the load.

The bits of a product depend on how many tokens go through it, so where a prompt is cut must follow from the prompt
alone: then its keys and values do too, and whole pieces of them can be taken over from a sequence that began alike.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.engine.jobs import Condition
from app.worker.row import Row

CHUNK = 64  # positions between two edges: one such piece and one step make a tick each while others wait for tokens

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """The next part of a prompt, for one slot.

    Attributes:
        slot: that it is read into.
        prompt: the whole prompt.
        start: position of its first token; what comes before has been read.
        end: position behind its last token; `start` when all has been read, or was taken over.
        row: of the prompt's last piece, what its first token is drawn with; None of any other.
        condition: what the model is told besides tokens; None for its default.
    """

    slot: int
    prompt: Tokens
    start: int
    end: int
    row: Row | None
    condition: Condition | None = None

    @property
    def length(self) -> int:
        """Tokens to be read."""
        return self.end - self.start


def piece_end(start: int, length: int) -> int:
    """Where a piece ends that starts at a position of a prompt of this length: at the next edge, or with the prompt."""
    return min((start // CHUNK + 1) * CHUNK, length)


def whole_pieces(positions: int) -> int:
    """As many of these positions as are whole pieces."""
    return positions // CHUNK * CHUNK
