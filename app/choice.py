"""One continuation of a prompt as it grows: tokens in, whole characters out, with what was asked of single tokens.

Knows tokens, text and stop strings; knows neither requests nor the engine.
"""

from dataclasses import dataclass
from typing import Literal

from app.engine.jobs import Chunk, Logprob, SequenceJob
from app.schemas.text import Usage
from app.text import StopStrings, Tokenizer

LEAST_LOGPROB = -9999.0  # JSON has no infinity

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Likely:
    """A token with its log probability.

    Attributes:
        token: its text, or a name for it.
        raw: its bytes.
        logprob: None for the first token of an echoed prompt.
    """

    token: str
    raw: bytes
    logprob: float | None


@dataclass(frozen=True, slots=True)
class Scored(Likely):
    """One token of a text, the likeliest ones in its place, and where in the text it begins."""

    top: tuple[Likely, ...] | None
    offset: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What a tick adds to a choice.

    Attributes:
        index: of the choice, prompt x n + j.
        text: whole characters, free of stop strings.
        scored: its tokens, when log probabilities were asked for.
        finish: why the choice ends with this piece; None while it goes on.
    """

    index: int
    text: str
    scored: tuple[Scored, ...] = ()
    finish: Finish | None = None


class Choice:
    """One continuation as it grows."""

    def __init__(
        self, index: int, job: SequenceJob, tokenizer: Tokenizer, stops: tuple[str, ...], *, echo: bool, continues: bool
    ) -> None:
        """Of a text that `continues`, or of one that begins; an `echo` of the prompt comes first."""
        self.job = job
        self.tokens = 0
        self._index = index
        self._tokenizer = tokenizer
        self._detokenizer = tokenizer.stream(within=continues)
        self._stops = StopStrings(stops)
        self._each = bool(stops or job.forced or job.sampling.logprobs is not None)
        self._forced = len(job.forced)
        self._echo = echo  # and still to come
        self._measured = tokenizer.stream(within=continues and not echo)  # for offsets
        self._offset = 0 if echo or job.sampling.logprobs is None else len(self._prompt)

    @property
    def usage(self) -> Usage:
        """Tokens of this choice and of its prompt."""
        return usage_of(len(self.job.prompt), self.tokens)

    @property
    def _prompt(self) -> str:
        return self._tokenizer.decode(self.job.prompt)

    def push(self, chunk: Chunk) -> Piece:
        """More tokens, the echoed prompt before the first; a stop string in their text finishes the choice."""
        text, scored = self._begin() if self._echo else ("", [])
        finish = self._push_each(chunk, scored) if self._each else self._push_all(chunk)
        return Piece(self._index, text + finish[0], tuple(scored), finish[1])

    def _begin(self) -> tuple[str, list[Scored]]:
        self._echo = False
        if self.job.sampling.logprobs is None:
            return self._prompt, []
        return self._prompt, [self._score(self.job.prompt[0], None)]

    def _push_all(self, chunk: Chunk) -> tuple[str, Finish | None]:
        """When nothing is asked of single tokens."""
        self.tokens += len(chunk.tokens)
        text = self._detokenizer.push(*chunk.tokens) if chunk.tokens else ""
        return text + self._detokenizer.finish() if chunk.finish else text, chunk.finish

    def _push_each(self, chunk: Chunk, scored: list[Scored]) -> tuple[str, Finish | None]:
        text = ""
        for place, token in enumerate(chunk.tokens):
            if chunk.logprobs:
                scored.append(self._score(token, chunk.logprobs[place]))
            if self._forced:  # the prompt's own token, which was given
                self._forced -= 1
                continue
            self.tokens += 1
            text += self._shown(self._detokenizer.push(token))
            if self._stops.found:
                return text, "stop"
        if chunk.finish is None:
            return text, None
        text += self._shown(self._detokenizer.finish())
        return text + self._stops.finish(), "stop" if self._stops.found else chunk.finish

    def _shown(self, text: str) -> str:
        """What may be shown of new text; in that of the first `min_tokens` no stop string is looked for."""
        return text if self.tokens <= self.job.min_tokens else self._stops.push(text)

    def _score(self, token: int, logprob: Logprob | None) -> Scored:
        offset = self._offset
        self._offset += len(self._measured.push(token))
        name, raw = self._tokenizer.token(token), self._tokenizer.token_bytes(token)
        if logprob is None:
            return Scored(name, raw, None, None, offset)
        top = tuple(self._likely(other, value) for other, value in logprob.top)
        return Scored(name, raw, max(logprob.logprob, LEAST_LOGPROB), top, offset)

    def _likely(self, token: int, logprob: float) -> Likely:
        return Likely(self._tokenizer.token(token), self._tokenizer.token_bytes(token), max(logprob, LEAST_LOGPROB))


def usage_of(prompt: int, completion: int) -> Usage:
    """So many tokens read and generated."""
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
