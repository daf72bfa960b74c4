"""Log lines: plain on a terminal, one JSON object a line elsewhere. Never a prompt, never a key, never a body."""

import json
import logging
import sys
import warnings
from datetime import UTC, datetime

FIELDS = ("request_id", "method", "route", "model", "status", "code", "milliseconds")


class JSONFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the fields that a request's line carries."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(level: str) -> None:
    """Send the service's own lines to standard error; libraries' warnings too, but what Pillow says of uploads.

    That would be lines, and entries in a table that is never cleared, by the wish of whoever sends odd files.
    """
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(plain if sys.stderr.isatty() else JSONFormatter())
    logging.getLogger().handlers[:] = [handler]
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("genserve").setLevel(level.upper())
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="PIL")
