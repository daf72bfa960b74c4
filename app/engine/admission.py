"""Who may queue: a bound on the rows in flight and an honest answer to "when shall I come back?".

Knows rows and seconds; knows nothing of sockets or of HTTP.
"""

from app.errors import Overloaded

SMOOTHING = 0.2  # weight of the newest batch in the learned seconds a row


class Admission:
    """The queue bound of one worker and its learned drain rate."""

    def __init__(self, max_rows: int) -> None:
        """Start empty; `max_rows` is the most rows that may wait or be computed at once."""
        self._max_rows = max_rows
        self.rows = 0  # in flight over all models
        self._rows: dict[str, int] = {}
        self._seconds_a_row: dict[str, float] = {}

    def depth(self, model: str) -> int:
        """Rows in flight for one model."""
        return self._rows.get(model, 0)

    @property
    def backlog_seconds(self) -> float:
        """Predicted device seconds until all that is in flight is done."""
        return sum(rows * self._seconds_a_row.get(model, 0.0) for model, rows in self._rows.items())

    def admit(self, model: str, rows: int) -> None:
        """Count rows in.

        Raises:
            Overloaded: they would exceed the bound; retry_after says when half of what is in flight will be done.
        """
        if self.rows + rows > self._max_rows:
            raise Overloaded(
                f"{self.rows} pictures and sequences are in flight; {rows} more would exceed {self._max_rows}",
                retry_after=max(self.backlog_seconds / 2, 0.001),
            )
        self._rows[model] = self.depth(model) + rows
        self.rows += rows

    def release(self, model: str, rows: int) -> None:
        """Count rows out: answered, failed or given up."""
        self._rows[model] -= rows
        self.rows -= rows

    def learn(self, model: str, seconds_a_row: float) -> None:
        """Take note of what a row cost in the newest batch."""
        known = self._seconds_a_row.get(model, seconds_a_row)
        self._seconds_a_row[model] = known + SMOOTHING * (seconds_a_row - known)
