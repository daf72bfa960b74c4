"""Who is let in, and to which worker: the one where it is done first, if that is in time."""

from collections.abc import Sequence

from app.engine.admission import Place
from app.engine.blame import Blame
from app.engine.jobs import LatentJob, SequenceJob
from app.engine.lane import Lane
from app.engine.promises import Promises
from app.engine.terms import Terms
from app.errors import KillsWorker, Overloaded
from app.telemetry import Telemetry

FRESH = 0.7  # of a request's time may be taken by the predicted wait
KEPT = 0.95  # for one that was told to come now
LEAST_WAIT = 0.001


class Reception:
    """The door of the engine; counts nothing in itself.

    Attributes:
        blame: requests that are not let in for a while.
    """

    def __init__(self, lanes: Sequence[Lane], telemetry: Telemetry) -> None:
        self.blame = Blame()
        self._lanes = lanes
        self._telemetry = telemetry
        self._promises = Promises()

    def check(self, terms: Terms) -> None:
        """Raise when this very request has ended a worker a short while ago.

        Raises:
            KillsWorker: it has.
        """
        if self.blame.holds(terms.digest):
            self._telemetry.rejected.labels("kills_worker").inc()
            raise KillsWorker("the same request has ended a device worker a short while ago")

    def lane_for_pictures(self, job: LatentJob, terms: Terms) -> tuple[Lane, Place]:
        """The worker where these pictures are done first, and what they take there.

        Raises:
            Overloaded: not in time, or not within the queue's bound.
        """
        best, wait, place = None, 0.0, None
        for lane in self._candidates():
            here = lane.admission.place(job.model, terms.client, job.rows, job.work)
            seconds = lane.admission.pictures_in(here)
            if best is None or seconds < wait:
                best, wait, place = lane, seconds, here
        assert best is not None, "some worker is kept"
        assert place is not None, "of the best one"
        self._check_room(best, wait, place, job.rows, terms)
        return best, place

    def lane_for_sequences(self, jobs: Sequence[SequenceJob], terms: Terms) -> Lane:
        """The worker where a request's sequences are done first, or begun if they are streamed.

        Raises:
            Overloaded: not in time, or not within the queue's bound.
        """
        model, count = jobs[0].model, len(jobs)
        tokens = sum(max(1, job.outputs) + terms.further for job in jobs)
        lanes = self._candidates()
        waits = [lane.admission.sequences_in(model, terms.client, count, tokens, whole=terms.whole) for lane in lanes]
        wait = min(waits)
        lane = lanes[waits.index(wait)]
        self._check_room(lane, wait, Place(model, terms.client, 1, tokens), count, terms)
        return lane

    def _candidates(self) -> list[Lane]:
        """The open lanes; where there is none, those that will open again."""
        return [lane for lane in self._lanes if lane.open] or [lane for lane in self._lanes if not lane.keeper.gave_up]

    def _check_room(self, lane: Lane, wait: float, place: Place, rows: int, terms: Terms) -> None:
        """Refuse what would not be done in time, or what the queue's bound does not let in.

        A further stage of an admitted request is never refused: what was computed for it would be lost, and paid again.

        Raises:
            Overloaded: with the time after which there will be room.
        """
        if terms.admitted:
            return
        admission = lane.admission
        room = admission.has_room(rows, place.client)
        late = wait > FRESH * terms.seconds and admission.busy_with(place.model)
        if room and not late:
            return
        key = (terms.client, terms.digest())
        if room and wait <= KEPT * terms.seconds and self._promises.redeem(key):
            return
        self._telemetry.rejected.labels("deadline" if room else "queue_full").inc()
        takes = admission.seconds_of(place)
        after = self._promises.make(key, max(wait - FRESH * terms.seconds if room else takes, LEAST_WAIT), takes)
        if not room:
            said = f"{admission.rows} pictures and sequences are in flight; {rows} more are too many"
            raise Overloaded(said, retry_after=after)
        raise Overloaded(f"it would be done in {wait:.2f} s; it has {terms.seconds:.2f} s", retry_after=after)
