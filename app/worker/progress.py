"""One sequence on its way: its job, what has been read of its prompt, and what has come of it so far."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from app.engine.jobs import Chunk, Logprob, SequenceJob
from app.worker.constraint import Constraint
from app.worker.pieces import Piece, Tokens, piece_end
from app.worker.row import Row


@dataclass(slots=True, eq=False)
class Progress:
    """A job and how far it has come.

    Attributes:
        number: the job's.
        job: what is wanted.
        arrived: when it came, by `time.monotonic`.
        prompt: what is read before the first token is drawn.
        read: positions of the prompt that its slot holds.
        begun: whether it was decided what of the prompt is taken over from another slot.
        follows: who is reading a prompt that begins alike: what can be taken over is not read twice.
        alone: the prompt is to be read without company, because a call for several raised.
        turn: when its last piece was read; the longest ago is next.
        tokens: all that was said, forced ones first.
        sent: how many of them the other side has.
        suspect: a step raised in which it took part; it runs again from its start, and alone.
        constraint: what may come next; None for anything.
    """

    number: int
    job: SequenceJob
    arrived: float
    prompt: Tokens = field(init=False)
    read: int = 0
    begun: bool = False
    follows: "Progress | None" = None
    alone: bool = False
    turn: int = 0
    tokens: list[int] = field(default_factory=list)
    sent: int = 0
    suspect: bool = False
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        self.prompt = np.array(self.job.prefix, np.int64)

    @property
    def request(self) -> int:
        """Whose sequence it is: its own, when the job does not say."""
        return self.job.request or self.number

    @property
    def reading(self) -> bool:
        """Whether its first token is still to be drawn."""
        return not self.tokens

    @property
    def left(self) -> int:
        """Tokens still to come, at most."""
        return self.job.outputs - len(self.tokens)

    @property
    def row(self) -> Row:
        """Where the sequence stands: its last token, not yet read by the network."""
        done = len(self.tokens)
        token = self.tokens[-1] if done else int(self.prompt[-1])
        forced = self.job.forced
        barred_for = max(0, len(forced) + self.job.min_tokens - done) if self.job.stop_tokens else 0
        return Row(
            token,
            len(self.prompt) + done - 1,
            self.job.seed,
            self.job.sampling,
            forced[done:],
            self.job.stop_tokens if barred_for else (),
            barred_for,
            None if self.constraint is None or done < len(forced) else self.constraint.allowed,
        )

    @property
    def piece_length(self) -> int:
        """Tokens that are to be read next; none when all was taken over."""
        return piece_end(self.read, len(self.prompt)) - self.read

    def piece(self, slot: int) -> Piece:
        """What its slot has to read next; nothing but a token to draw, when all was taken over."""
        end = self.read + self.piece_length
        row = self.row if end == len(self.prompt) else None
        return Piece(slot, self.prompt, self.read, end, row, self.job.condition)

    def start_over(self) -> None:
        """Run again from the beginning; the same job gives the same tokens, so what was sent is not sent again."""
        self.tokens.clear()
        self.read, self.begun, self.follows, self.constraint = 0, False, None, None

    def extend(self, new: list[int], logprobs: list[Logprob]) -> Chunk:
        """Go on with the tokens of some steps, up to where the sequence ends; what has not been sent yet.

        Raises:
            Exception: whatever the matcher of its grammar raises.
        """
        new, finish = self._until_end(new[: self.left])
        self.tokens += new
        if finish is None and self.left == 0:
            finish = "length"
        if finish is None and self._constrain(new):
            finish = "stop"
        fresh = max(0, min(len(self.tokens) - self.sent, len(new)))  # fewer than all when a suspect runs again
        self.sent = max(self.sent, len(self.tokens))
        cut = len(new) - fresh
        return Chunk(self.number, tuple(new[cut:]), tuple(logprobs[cut : len(new)]), finish)

    def _until_end(self, new: list[int]) -> tuple[list[int], Literal["stop", "length"] | None]:
        """The tokens before a stop token, which ends the sequence and is no part of it."""
        forced = len(self.job.forced) - len(self.tokens)
        for index, token in enumerate(new):
            if index >= forced and token in self.job.stop_tokens:
                return new[:index], "stop"
        return new, None

    def _constrain(self, new: list[int]) -> bool:
        """Tell the grammar what was drawn; whether nothing but an end may follow."""
        if self.constraint is None:
            return False
        forced = len(self.job.forced) - (len(self.tokens) - len(new))
        for token in new[max(0, forced) :]:
            self.constraint.accept(token)
        return self.constraint.over
