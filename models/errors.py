"""The one error of weights folders, and how much of a file's own words a message repeats."""

MAX_SAID = 500  # characters


class CheckpointError(Exception):
    """A weights folder can't be used; the message names the file and the cause."""


def short(text: str) -> str:
    """What a file says, fit for one line of a log."""
    said = text if text.isprintable() else repr(text)
    return said if len(said) <= MAX_SAID else f"{said[:MAX_SAID]}..."
