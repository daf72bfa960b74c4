"""Jobs between submission and answer, and what has come of them so far."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from app.engine.admission import Place
from app.engine.jobs import Chunk, LatentJob, Part, Rows, SequenceJob
from app.engine.stream import TokenStream
from app.engine.terms import Terms
from app.errors import ComputeFailed

if TYPE_CHECKING:
    from app.engine.lane import Lane


@dataclass(slots=True)
class Picture:
    """A job for pictures, or for their latents.

    Attributes:
        lane: where it is computed.
        place: what it takes there.
        terms: on which it was taken.
        deadline: by `time.monotonic`.
        timer: that fails it then.
        job: what to compute.
        future: of its rows.
        missing: rows that have not come yet.
    """

    lane: "Lane"
    place: Place
    terms: Terms
    deadline: float
    timer: asyncio.TimerHandle
    job: LatentJob
    future: asyncio.Future[Rows]
    missing: int
    _rows: Rows | None = None

    def take(self, part: Part, rows: Rows) -> None:
        """Put finished rows where they belong; the job is done with its last row, or failed with its first bad one."""
        if part.error is not None:
            self.future.set_exception(ComputeFailed(part.error))
            return
        if part.count == self.job.rows:
            self.future.set_result(rows)
            return
        if self._rows is None:
            self._rows = np.empty((self.job.rows, *rows.shape[1:]), rows.dtype)
        self._rows[part.offset : part.offset + part.count] = rows
        self.missing -= part.count
        if self.missing == 0:
            self.future.set_result(self._rows)

    def restart(self) -> None:
        """It will be computed again from the beginning."""
        self._rows, self.missing = None, self.job.rows


@dataclass(slots=True)
class Strand:
    """One sequence of a request for text.

    Attributes:
        lane: where it is computed.
        place: what it takes there.
        terms: on which it was taken.
        timer: of the whole request.
        siblings: numbers of all sequences of the request.
        job: what to continue.
        stream: where its tokens go.
        index: which of the request's sequences it is.
        submitted: by `time.perf_counter`, as the next two.
        first: when its first token came.
        last: when its last token came.
    """

    lane: "Lane"
    place: Place
    terms: Terms
    timer: asyncio.TimerHandle
    siblings: Sequence[int]
    job: SequenceJob
    stream: TokenStream
    index: int
    submitted: float
    first: float | None = None
    last: float | None = None
    _given: int = 0
    _again: int = 0  # tokens of a later run that an earlier one has given already

    def take(self, chunk: Chunk) -> Chunk | None:
        """What of a chunk is new; the same job gives the same tokens, so a second run repeats those of the first."""
        old = min(self._again, len(chunk.tokens))
        self._again -= old
        self._given += len(chunk.tokens) - old
        if old == 0:
            return chunk
        if old == len(chunk.tokens) and chunk.finish is None and chunk.error is None and chunk.refused is None:
            return None
        return replace(chunk, tokens=chunk.tokens[old:], logprobs=chunk.logprobs[old:])

    def restart(self) -> None:
        """It will be computed again from the beginning."""
        self._again = self._given


Flight = Picture | Strand
