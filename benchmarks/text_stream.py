"""One streamed completion in OpenAI's shape, as its reader sees it.

What comes is kept as it came, with the time, and read after the load: reading costs a core as much as a server's event.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

Chunks = list[tuple[float, bytes]]


class StreamError(Exception):
    """A stream did not end as it should, or holds something else than a completion."""


@dataclass
class Recording:
    """What came when, by the clock of `time.perf_counter`; chunks may be cut anywhere.

    Attributes:
        sent: when the request was sent.
        chunks: when each came, and its bytes.
        error: why there is no answer; None while there may be one.
    """

    sent: float
    chunks: Chunks = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True)
class Completion:
    """A completion that came to its end.

    Attributes:
        sent: when the request was sent.
        pieces: when each piece of text came, and the piece.
        prompt_tokens, tokens: as the server counts them in `usage`.
    """

    sent: float
    pieces: tuple[tuple[float, str], ...]
    prompt_tokens: int
    tokens: int

    @property
    def first(self) -> float:
        """Seconds from sending to the first piece of text."""
        return self.pieces[0][0] - self.sent

    @property
    def gaps(self) -> list[float]:
        """Seconds between one piece and the next, as the reader waits for them."""
        times = [at for at, _ in self.pieces]
        return [later - sooner for sooner, later in pairwise(times)]

    def between(self, count: Callable[[str], int]) -> list[float]:
        """Seconds a token, one value for each token after the first piece.

        A piece of several tokens makes several equal values: the wait for it by the number of its tokens, which are
        counted by tokenizing its text (no server says them).
        """
        found = []
        for gap, (_, text) in zip(self.gaps, self.pieces[1:], strict=True):
            tokens = max(1, count(text))
            found += [gap / tokens] * tokens
        return found


def read(recording: Recording) -> Completion:
    """What was recorded.

    Raises:
        StreamError: there is an error in it, no text, or no count of tokens at its end.
    """
    if recording.error is not None:
        raise StreamError(recording.error)
    pieces, usage = [], None
    for at, event in _events(recording.chunks):
        text, counted = _fields(event)
        if text:
            pieces.append((at, text))
        usage = counted or usage
    if not pieces or usage is None:
        raise StreamError("the stream ends without text" if usage else "the stream ends without a count of tokens")
    return Completion(recording.sent, tuple(pieces), int(usage["prompt_tokens"]), int(usage["completion_tokens"]))


def _events(chunks: Chunks) -> Iterator[tuple[float, bytes]]:
    """Data of each event, with the time of the chunk that ends it; comments and the closing mark are left out."""
    rest = b""
    for at, data in chunks:
        *events, rest = (rest + data.replace(b"\r", b"")).split(b"\n\n")
        for event in events:
            if event.startswith(b"data:") and (content := event[5:].strip()) != b"[DONE]":
                yield at, content


def _fields(event: bytes) -> tuple[str, dict[str, Any] | None]:
    """The text of an event and its count of tokens."""
    try:
        said = json.loads(event)
        if "error" in said:
            raise StreamError(f"error event: {said['error']}")
        text = said["choices"][0]["text"] if said["choices"] else ""
        return text, said.get("usage")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StreamError(f"not an event of a completion: {event[:200]!r}") from error
