"""What came of the faults, as a table: one row a figure, one column a server."""

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.fault_client import CLOSED, HANG_SECONDS, HANGING, OK, REFUSED, WAITING

TITLES = {
    "genserve": "genserve",
    "fastapi": "plain FastAPI",
    "litserve": "LitServe",
    "mosec": "mosec",
    "bentoml": "BentoML",
}
SAID = {
    OK: "answered",
    CLOSED: "cut off",
    REFUSED: "refused a connection",
    HANGING: f"still hanging after {HANG_SECONDS:.0f} s",
    WAITING: "unanswered at the end",
}
NONE = "-"

Found = Mapping[str, Any]


def table(servers: Mapping[str, Found]) -> str:
    """Markdown."""
    names = [name for name in TITLES if name in servers]
    head = ["", *(f"{TITLES[name]} {servers[name]['version']}" for name in names)]
    tested = [row for row in ROWS if any(row[1] in servers[name] for name in names)]
    rows = [[title, *(_cell(servers[name], fault, show) for name in names)] for title, fault, show in tested]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _cell(found: Found, fault: str, show: Callable[[Found], str]) -> str:
    if fault not in found:
        return NONE
    return found[fault].get("error") or show(found[fault])


def failed(found: Found) -> str:
    """How many of a batch, round by round."""
    rows = found["rows"]
    together = "computed alone" if rows == 1 else f"{rows} in its batch"
    wrong = f"; {found['changed']} answers changed" if found["changed"] else ""
    return f"{_rounds(found['failed'])} of {found['sent']} ({together}){wrong}"


def _rounds(numbers: list[int]) -> str:
    same = len(set(numbers)) == 1
    return str(numbers[0]) if same else ", ".join(map(str, numbers))


def computed(found: Found) -> str:
    """How many of those who had left."""
    return f"{_rounds(found['computed'])} of {found['left']}"


def again(found: Found) -> str:
    """When it answers again."""
    if found["again_seconds"] is not None:
        return f"{found['again_seconds']:.1f} s"
    if found["exit_status"] is not None:
        return f"never: the server ended, status {found['exit_status']}"
    return f"not within {HANG_SECONDS:.0f} s"


def in_flight(found: Found) -> str:
    """What those saw who were waiting, and for how long."""
    within = "" if HANGING in found["in_flight"] else f"; within {found['longest_seconds']:.1f} s"
    return f"{said(found['in_flight'])}{within}"


def meanwhile(found: Found) -> str:
    """What those saw who came before it answered again."""
    return said(found["meanwhile"])


def said(counts: Mapping[str, int]) -> str:
    """Outcomes in words."""
    return ", ".join(f"{count} {SAID.get(what, f'got {what}')}" for what, count in counts.items()) or "nobody"


def clients(found: Found) -> str:
    """Of requests in flight at SIGTERM."""
    return said(found["clients"])


def ending(found: Found) -> str:
    """Exit status and time."""
    if found["exit_status"] is None:
        return f"still running after {found['seconds']:.0f} s"
    return f"status {found['exit_status']} after {found['seconds']:.1f} s"


def left(found: Found) -> str:
    """Processes that outlived it."""
    return f"{found['left']}{', and they serve' if found['still_serving'] else ''}"


ROWS: tuple[tuple[str, str, Callable[[Found], str]], ...] = (
    ("1 bad + 6 good requests in a batch: failed", "batch", failed),
    ("6 clients that left: computed all the same", "departed", computed),
    ("kill -9 of the worker: answers again after", "killed", again),
    ("... requests in flight", "killed", in_flight),
    ("... requests meanwhile", "killed", meanwhile),
    (
        "kill -STOP of the worker, limits of 2 s (genserve: watchdog, others: request): answers again after",
        "hung",
        again,
    ),
    ("... requests in flight", "hung", in_flight),
    ("... requests meanwhile", "hung", meanwhile),
    ("SIGTERM with 8 requests in flight: clients", "terminated", clients),
    ("... the server ends", "terminated", ending),
    ("... processes left 2 s later", "terminated", left),
)
