"""Who may queue: what is in flight at one worker, and in how many seconds something new would be done.

Knows rows, tokens and seconds, and that clients take turns; knows nothing of sockets or of HTTP.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from app.engine.jobs import ModelInfo, encoder_of

SMOOTHING = 0.2  # weight of the newest batch in the learned seconds a row, of the newest sequence in a token's
MEMORY = 2.0  # busy seconds over which the worker's speed is averaged
SLOWEST = 0.05  # a worker that shares its cores still gets so much of one
RESERVE = 8  # one row in so many is kept for clients that have nothing in flight


@dataclass(frozen=True, slots=True)
class Place:
    """What one job takes of a worker.

    Attributes:
        model: its name.
        client: whose job it is.
        rows: pictures, or one sequence.
        tokens: asked for; 0 for pictures.
        cost: predicted seconds of compute of pictures; 0 for a sequence.
    """

    model: str
    client: str
    rows: int
    tokens: int = 0
    cost: float = 0.0


@dataclass(slots=True)
class _Text:
    """One sequence model: its slots, and what its sequences still want.

    Attributes:
        pace: seconds for each token asked for, those never produced included.
    """

    slots: int
    pace: float
    sequences: int = 0
    tokens: int = 0

    def slot_free_in(self, ahead: int) -> float:
        """Seconds until so many sequences that have no slot yet have got one."""
        if ahead <= 0:
            return 0.0
        return ahead * self.pace * self.tokens / max(1, self.sequences) / self.slots


class Admission:
    """The bound of one worker's queue, and its learned speed.

    Attributes:
        rows: pictures and sequences in flight.
    """

    def __init__(self, max_rows: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty; `max_rows` is the most rows that may wait or be computed at once."""
        self.rows = 0
        self._max_rows = max_rows
        self._clock = clock
        self._row_seconds: dict[str, float] = {}
        self._texts: dict[str, _Text] = {}
        self._clients: dict[str, int] = {}  # rows in flight of each
        self._client_cost: dict[str, float] = {}
        self._pictures = 0
        self._cost = 0.0  # of all pictures in flight, seconds of compute
        self._speed = 1.0  # seconds of compute done in a second: above 1 where batches run beside each other
        self._since = 0.0

    def serve(self, info: ModelInfo) -> None:
        """Take note of a model as it was measured at warm-up."""
        if info.kind == "sequence":
            self._texts.setdefault(info.name, _Text(info.slots, info.seconds[-1]))
            return
        self._row_seconds.setdefault(info.name, info.seconds[-1] / info.buckets[-1])
        if info.encodes:
            self._row_seconds.setdefault(encoder_of(info.name), info.encode_seconds[-1] / info.encode_buckets[-1])
        for name, seconds in info.step_seconds.items():
            self._row_seconds.setdefault(name, seconds)

    def place(self, model: str, client: str, rows: int, work: int = 0) -> Place:
        """Of so many pictures, or of so many rows that take this many steps in all."""
        return Place(model, client, rows, cost=(work or rows) * self._row_seconds.get(model, 0.0))

    @property
    def backlog_seconds(self) -> float:
        """Predicted seconds until the pictures in flight are done."""
        return max(0.0, self._cost) / self._speed

    def has_room(self, rows: int, client: str) -> bool:
        """Whether the bound lets so many rows in; the last of them are kept for clients who have none in flight."""
        limit = self._max_rows - (self._max_rows // RESERVE if client in self._clients else 0)
        return self.rows + rows <= limit

    def seconds_of(self, place: Place) -> float:
        """Of the worker's time that a job takes."""
        if not place.tokens:
            return place.cost / self._speed
        text = self._texts[place.model]
        return place.tokens * text.pace / text.slots

    def pictures_in(self, place: Place) -> float:
        """Predicted seconds until these pictures, if admitted now, are done.

        All in flight come first, or, if that is less, the client's own pictures as many times as there are clients:
        they take turns.
        """
        if not self._pictures:
            return place.cost / self._speed
        own = self._client_cost.get(place.client, 0.0) + place.cost
        clients = len(self._client_cost) + (place.client not in self._client_cost)
        return min(self._cost + place.cost, own * clients) / self._speed

    def sequences_in(self, model: str, client: str, sequences: int, tokens: int, *, whole: bool) -> float:
        """Predicted seconds until a request's sequences are done, or the first of them has its first token."""
        text = self._texts[model]
        ahead = text.sequences + (sequences if whole else 1) - text.slots
        if client not in self._clients:  # its turn comes after one of each other client
            ahead = min(ahead, len(self._clients) + sequences)
        own = tokens / sequences * text.pace if whole else 0.0
        return text.slot_free_in(ahead) + own

    def busy_with(self, model: str) -> bool:
        """Whether anything of the model's kind is in flight: an idle worker is never too slow."""
        return bool(self._texts[model].sequences) if model in self._texts else bool(self._pictures)

    def enter(self, place: Place) -> None:
        """Count a job in."""
        self.rows += place.rows
        self._clients[place.client] = self._clients.get(place.client, 0) + place.rows
        if place.tokens:
            text = self._texts[place.model]
            text.sequences += 1
            text.tokens += place.tokens
            return
        if not self._pictures:
            self._since = self._clock()
        self._pictures += place.rows
        self._cost += place.cost
        self._client_cost[place.client] = self._client_cost.get(place.client, 0.0) + place.cost

    def leave(self, place: Place) -> None:
        """Count a job out: answered, failed or given up."""
        self.rows -= place.rows
        self._clients[place.client] -= place.rows
        if not self._clients[place.client]:
            del self._clients[place.client]
            self._client_cost.pop(place.client, None)
        if place.tokens:
            text = self._texts[place.model]
            text.sequences -= 1
            text.tokens -= place.tokens
            return
        self._pictures -= place.rows
        self._cost = self._cost - place.cost if self._pictures else 0.0  # so that rounding does not add up
        if place.client in self._client_cost:
            self._client_cost[place.client] -= place.cost

    def resume(self) -> None:
        """The worker is back: the time without one says nothing about its speed."""
        self._since = self._clock()

    def learn_batch(self, model: str, rows: int, seconds: float) -> None:
        """Take note of what a batch, or so many steps of rows, cost, and of how much compute a second of time held."""
        self._row_seconds[model] = _smoothed(self._row_seconds.get(model), seconds / rows, SMOOTHING)
        now = self._clock()
        elapsed, self._since = now - self._since, now
        weight = min(1.0, elapsed / MEMORY)
        if elapsed > 0:
            self._speed = max(SLOWEST, self._speed + weight * (seconds / elapsed - self._speed))

    def learn_sequence(self, model: str, tokens: int, seconds: float) -> None:
        """Take note of how long a sequence held its slot, by the tokens that were asked for."""
        text = self._texts[model]
        text.pace = _smoothed(text.pace, seconds / max(1, tokens), SMOOTHING)


def _smoothed(known: float | None, newest: float, weight: float) -> float:
    return newest if known is None else known + weight * (newest - known)
