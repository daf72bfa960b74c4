"""How far a set is, on one line for who watches, on a few lines for a log."""

import sys
import time

STEPS = 10  # lines of a log
REDRAW = 0.1  # seconds


class Progress:
    """Pictures there are, of so many."""

    def __init__(self, there: int, total: int) -> None:
        """Some may be there from before."""
        self._there, self._total, self._begun = there, total, there
        self._start = self._drawn = time.monotonic()
        self._watched = sys.stderr.isatty()

    def add(self, count: int) -> None:
        """So many more have come."""
        step = self._there * STEPS // self._total
        self._there += count
        now = time.monotonic()
        if self._watched and (now - self._drawn > REDRAW or self._there == self._total):
            self._drawn = now
            print(f"\r{self._line(now)}", end="\n" if self._there == self._total else "", file=sys.stderr, flush=True)
        elif not self._watched and self._there * STEPS // self._total > step:
            print(self._line(now), file=sys.stderr)

    def _line(self, now: float) -> str:
        rate = (self._there - self._begun) / max(now - self._start, 1e-9)
        return f"genserve dataset: {self._there:,} of {self._total:,} pictures, {rate:,.0f}/s"
