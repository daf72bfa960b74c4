"""One streamed text as its reader sees it: server-sent events in, times and tokens out. It knows no sockets."""

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Stream:
    """What came when, in seconds of whatever clock the caller has.

    Attributes:
        sent: when the request was sent.
        pieces: when each piece of text came.
        tokens: how many tokens the service counts in it; known from the last piece on.
        done: the stream ended as it should. False after an error event or a cut connection.
    """

    sent: float
    pieces: list[float] = field(default_factory=list)
    tokens: int = 0
    done: bool = False
    _rest: bytes = b""

    def feed(self, data: bytes, now: float) -> None:
        """Take in what came; events may be cut anywhere.

        Raises:
            ValueError: an event's data is not what a stream of text holds.
        """
        *events, self._rest = (self._rest + data).split(b"\n\n")
        for event in events:
            if event.startswith(b"data: "):  # comments keep the line open, error events end it without [DONE]
                self._take(event[6:], now)

    def _take(self, data: bytes, now: float) -> None:
        if data == b"[DONE]":
            self.done = True
            return
        piece: Any = json.loads(data)
        try:
            if piece["text"]:
                self.pieces.append(now)
            if "usage" in piece:
                self.tokens = int(piece["usage"]["completion_tokens"])
        except (KeyError, TypeError) as error:
            raise ValueError("not an event of a stream of text") from error

    @property
    def first(self) -> float | None:
        """Seconds to the first piece."""
        return self.pieces[0] - self.sent if self.pieces else None

    @property
    def between(self) -> float | None:
        """Seconds a token, from the first piece to the last; None when there is nothing between them."""
        return (self.pieces[-1] - self.pieces[0]) / (self.tokens - 1) if len(self.pieces) > 1 < self.tokens else None

    @property
    def rate(self) -> float | None:
        """Tokens per second, waiting for the first one included."""
        return self.tokens / (self.pieces[-1] - self.sent) if self.pieces else None

    def tokens_until(self, moment: float) -> float:
        """Its tokens so far: the service tells their number at the end only, pieces are taken to be of one size."""
        if not self.pieces:
            return 0.0
        return self.tokens * sum(at <= moment for at in self.pieces) / len(self.pieces)
