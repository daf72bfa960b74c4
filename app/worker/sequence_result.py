"""What one tick of a sequence model made, and the message that carries it."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from app.engine.jobs import Chunk


@dataclass(frozen=True, slots=True)
class SequenceResult:
    """What one tick made.

    Attributes:
        chunks: one for each sequence that moved.
        seconds: of compute.
        rows: live rows of the steps; 0 for a tick of prefills.
        prefills: prompt tokens read.
        reused: prompt tokens taken over from another prompt that began alike.
        waited: seconds from arrival to slot of each sequence admitted.
        busy: slots in use after the tick.
        limit: of a batch; slots have none.
    """

    chunks: list[Chunk]
    seconds: float
    rows: int
    prefills: int
    reused: int
    waited: list[float]
    busy: int
    limit: int | None = None

    def frame(self, model: str) -> tuple[dict[str, Any], tuple[NDArray[Any], ...]]:
        """The message that carries it."""
        header = {
            "type": "chunks",
            "model": model,
            "chunks": [_as_message(chunk) for chunk in self.chunks],
            "seconds": self.seconds,
            "rows": self.rows,
            "prefills": self.prefills,
            "reused": self.reused,
            "waited": self.waited,
            "busy": self.busy,
        }
        return header, ()


def _as_message(chunk: Chunk) -> tuple[Any, ...]:
    logprobs = [(logprob.logprob, logprob.top) for logprob in chunk.logprobs]
    return chunk.job, chunk.tokens, logprobs, chunk.finish, chunk.error, chunk.refused, chunk.busy
