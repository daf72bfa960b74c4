"""What may come next in a sequence that has to fit a grammar."""

import numpy as np
from numpy.typing import NDArray

from app.worker.grammars import Matcher


class Constraint:
    """One sequence's matcher and what it allows now.

    Attributes:
        allowed: [V], what may be drawn next.
    """

    allowed: NDArray[np.bool_]

    def __init__(self, matcher: Matcher, stop_tokens: tuple[int, ...]) -> None:
        """At the beginning of a text that these tokens end.

        Raises:
            GrammarRefused: nothing can be said.
        """
        self._matcher, self._stops = matcher, sorted(set(stop_tokens))
        self.allowed = matcher.allowed()

    @property
    def over(self) -> bool:
        """Whether nothing but an end may follow."""
        return int(np.count_nonzero(self.allowed)) <= int(np.count_nonzero(self.allowed[self._stops]))

    def accept(self, token: int) -> None:
        """Go on with a token that was drawn.

        Raises:
            ValueError: it is none of those allowed.
            GrammarRefused: what may follow can't be told.
        """
        self._matcher.accept(token)
        self.allowed = self._matcher.allowed()
