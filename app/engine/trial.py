"""After a crash: what the worker was computing runs again, one job at a time, until the guilty one is known.

Knows numbers of jobs; who runs them is the engine's business.
"""

from collections import Counter, deque
from collections.abc import Iterable, Set


class Trial:
    """The suspects of one worker.

    Attributes:
        running: the suspect that runs alone now; None between two, or when there are none.
    """

    def __init__(self) -> None:
        self.running: int | None = None
        self._suspects: deque[int] = deque()
        self._digests: dict[int, bytes] = {}  # of those that this worker was given alone
        self._tries: Counter[int] = Counter()

    def open(self, suspects: Iterable[int]) -> None:
        """Begin, or begin again with another worker."""
        self.running = None
        self._suspects = deque(sorted(suspects))
        self._digests.clear()

    def next(self) -> int | None:
        """The next suspect, unless one runs."""
        return self._suspects.popleft() if self._suspects and self.running is None else None

    def begin(self, number: int, digest: bytes) -> None:
        """A suspect runs, alone."""
        self.running = number
        self._digests[number] = digest
        self._tries[number] += 1

    def ended(self, number: int) -> bool:
        """Whether the suspect that ran is over with this job: the next one's turn."""
        if number != self.running:
            return False
        self.running = None
        return True

    def passed(self, number: int) -> bool:
        """Whether a sequence that has come further than in the crash lets the next one run beside it.

        Only at its first try: when there is another crash, each runs alone to its end.
        """
        return self._tries[number] == 1 and self.ended(number)

    def verdict(self, running: Set[int]) -> bytes | None:
        """The digest of the one job that ran, alone, when the worker ended; None when that is not known."""
        if len(running) != 1:
            return None
        return self._digests.get(next(iter(running)))

    def close(self) -> None:
        """All suspects have been tried."""
        self._digests.clear()
        self._tries.clear()
