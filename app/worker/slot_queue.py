"""Sequences that wait for a slot, and who gets the next one.

Knows sequences, requests and clients; keeps no slots. A free slot goes to the client that holds the fewest: what some
do not ask for is shared among those that do, and while others wait nobody gets more than that. Within a client it goes
to the request that holds the fewest.
"""

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from app.engine.jobs import SequenceJob

SHORT = 64  # tokens: such a sequence holds a slot for a second or so, so the next short one has it soon
RESERVING_SLOTS = 4  # of fewer, one that long sequences never get would be too many


class Waiter(Protocol):
    """A sequence with a number, and when it came."""

    number: int
    job: SequenceJob
    arrived: float

    @property
    def request(self) -> int:
        """Whose sequence it is."""
        ...


W = TypeVar("W", bound=Waiter)
Requests = OrderedDict[int, deque[W]]


@dataclass(slots=True)
class _Client(Generic[W]):
    """The waiting sequences of a client by request, the oldest first, short and long ones apart."""

    short: Requests[W] = field(default_factory=OrderedDict)
    long: Requests[W] = field(default_factory=OrderedDict)

    def upcoming(self, held: Mapping[int, int], share: int, *, long_fits: bool) -> W | None:
        """Of the request that holds the fewest slots, of those the first; none that holds its share already."""
        heads = [
            _upcoming(requests, held, share) for requests in ((self.short, self.long) if long_fits else (self.short,))
        ]
        there = [head for head in heads if head is not None]
        return min(there, key=lambda head: (held[head.request], head.arrived), default=None)


class SlotQueue(Generic[W]):
    """Sequences by client, in the order of the clients' turns."""

    def __init__(self, slots: int) -> None:
        """Start empty, before so many slots."""
        self._share = max(1, slots - slots // 4)  # of one request
        self._long_slots = slots - 1 if slots >= RESERVING_SLOTS else slots
        self._clients = OrderedDict[str, _Client[W]]()
        self._waiting: dict[int, W] = {}
        self._short = 0  # of those that wait

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sequence: W) -> None:
        """Queue a sequence under its number."""
        client = self._clients.setdefault(sequence.job.client, _Client())
        self._requests(client, sequence).setdefault(sequence.request, deque()).append(sequence)
        self._waiting[sequence.number] = sequence
        self._short += is_short(sequence.job)

    def remove(self, numbers: set[int]) -> None:
        """Forget these sequences."""
        gone = [self._waiting.pop(number) for number in numbers & self._waiting.keys()]
        self._short -= sum(is_short(sequence.job) for sequence in gone)
        for first in {(s.job.client, is_short(s.job), s.request): s for s in gone}.values():
            requests = self._requests(self._clients[first.job.client], first)
            kept = deque(sequence for sequence in requests[first.request] if sequence.number not in numbers)
            if kept:
                requests[first.request] = kept
            else:
                self._drop(requests, first)

    def upcoming(self, running: Collection[W]) -> W | None:
        """Who may have a free slot beside those that run; what has expired is dropped on the way."""
        clients = Counter(sequence.job.client for sequence in running)
        requests = Counter(sequence.request for sequence in running)
        long_fits = sum(not is_short(sequence.job) for sequence in running) < self._long_slots
        now = time.monotonic()
        while (chosen := self._choose(clients, requests, long_fits=long_fits)) is not None:
            if chosen.job.deadline > now:
                return chosen
            self._pop(chosen)
        return None

    def take(self, sequence: W) -> None:
        """Give a slot to the sequence that `upcoming` has named; its client's next turn comes after the others'."""
        self._pop(sequence)
        if sequence.job.client in self._clients:
            self._clients.move_to_end(sequence.job.client)

    def _choose(self, clients: Mapping[str, int], requests: Mapping[int, int], *, long_fits: bool) -> W | None:
        """Of the client that holds the fewest slots, of those the one whose turn it is.

        At most as many clients as there are slots hold one, so the first that holds none is soon found.
        """
        if not long_fits and not self._short:
            return None
        best, least = None, 0
        for name, client in self._clients.items():
            if best is not None and clients[name] >= least:
                continue
            if (head := client.upcoming(requests, self._share, long_fits=long_fits)) is not None:
                best, least = head, clients[name]
                if not least:
                    break
        return best

    def _pop(self, sequence: W) -> None:
        """Forget the first sequence of its request."""
        requests = self._requests(self._clients[sequence.job.client], sequence)
        first = requests[sequence.request].popleft()
        assert first is sequence
        del self._waiting[sequence.number]
        self._short -= is_short(sequence.job)
        if not requests[sequence.request]:
            self._drop(requests, sequence)

    def _drop(self, requests: Requests[W], sequence: W) -> None:
        """Forget a request of which nothing waits, and its client likewise."""
        del requests[sequence.request]
        client = self._clients[sequence.job.client]
        if not client.short and not client.long:
            del self._clients[sequence.job.client]

    def _requests(self, client: _Client[W], sequence: W) -> Requests[W]:
        return client.short if is_short(sequence.job) else client.long


def is_short(job: SequenceJob) -> bool:
    """Whether a sequence leaves its slot soon."""
    return job.outputs <= SHORT


def _upcoming(requests: Requests[W], held: Mapping[int, int], share: int) -> W | None:
    """The next sequence of the request that holds the fewest slots: of those without any, if there are, the oldest."""
    fewest: deque[W] | None = None
    for request, sequences in requests.items():
        if not held[request]:
            return sequences[0]
        if held[request] < share and (fewest is None or held[request] < held[fewest[0].request]):
            fewest = sequences
    return None if fewest is None else fewest[0]
