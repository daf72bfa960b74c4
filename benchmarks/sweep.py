"""The committed sweep: in which ways each peer is run to find its best, and the search through them.

Workers x threads never exceed the cores. The search goes through the batch sizes at the first window and of the first
variant, then through the other windows of the two best, then through the other variants of the best.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

CORES = 2
SHAPES = ((1, 1), (1, 2), (2, 1))  # workers, threads of each
CLIENTS = 32
FINALISTS = 2
BOUND = 100


@dataclass(frozen=True)
class Choice:
    """One way to run a peer; the fields are those of `peers.contract.Config`.

    `window` is in milliseconds; from `BOUND` on it is no window but BentoML's bound on latency.
    """

    workers: int
    threads: int
    max_batch: int
    window: int
    variant: str

    def __str__(self) -> str:
        many = f"{_count(self.workers, 'worker')} x {_count(self.threads, 'thread')}"
        window = f"{'latency bound' if self.window >= BOUND else 'window'} {self.window} ms"
        batch = f", batch <= {self.max_batch}, {window}" if self.max_batch > 1 else ""
        return f"{many}{batch}{', ' + self.variant if self.variant else ''}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Space:
    """What there is to choose of one peer."""

    batches: tuple[int, ...] = (8, 16, 32, 64)
    windows: tuple[int, ...] = (0, 1, 2, 5, 10)  # milliseconds
    variants: tuple[str, ...] = ("",)

    def first(self) -> Iterator[Choice]:
        """All shapes and batch sizes."""
        for workers, threads in SHAPES:
            for batch in self.batches:
                yield Choice(workers, threads, batch, self.windows[0], self.variants[0])

    @property
    def size(self) -> int:
        """Choices that the search measures."""
        first = len(SHAPES) * len(self.batches)
        return first + min(FINALISTS, first) * (len(self.windows) - 1) + len(self.variants) - 1


SPACES = {
    "fastapi": Space(batches=(1,), windows=(0,), variants=("inline", "thread")),
    # at 0 ms its workers poll an empty queue without a pause, which on two cores takes the HTTP process's share
    "litserve": Space(windows=(2, 0, 1, 5, 10), variants=("fast-queue", "process-queue")),
    "mosec": Space(),
    "bentoml": Space(windows=(60_000, 1_000, 100), variants=("one-service", "two-services")),  # bounds on latency
}


def search(space: Space, measure: Callable[[Choice], float]) -> tuple[Choice, dict[Choice, float]]:
    """The best choice and what each measured one came to, in requests/s."""
    found: dict[Choice, float] = {}

    def best(count: int) -> list[Choice]:
        return sorted(found, key=lambda choice: found[choice], reverse=True)[:count]

    for choice in space.first():
        found[choice] = measure(choice)
    for finalist in best(FINALISTS):
        for window in space.windows[1:]:
            choice = replace(finalist, window=window)
            found[choice] = measure(choice)
    (winner,) = best(1)
    for variant in space.variants[1:]:
        choice = replace(winner, variant=variant)
        found[choice] = measure(choice)
    return best(1)[0], found
