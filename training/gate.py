"""What a measured quality must reach before weights are published."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Gate:
    """A bound that a measured quality must keep before weights are published."""

    bound: Literal["min", "max"]
    value: float

    def passes(self, measured: float) -> bool:
        """Whether the measurement keeps the bound; not-a-number never does."""
        return measured >= self.value if self.bound == "min" else measured <= self.value
