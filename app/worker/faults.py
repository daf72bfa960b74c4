"""What may go wrong in a worker, told apart without torch."""

NOT_FINITE = "the model's output is not finite"
UNUSABLE = 70  # exit status of a worker whose device is lost: EX_SOFTWARE of sysexits.h


class RegistryError(Exception):
    """The models can't be served; the message says which and why."""


class DeviceLost(BaseException):
    """Every call to the device fails from now on, whoever makes it: only a new process can use it again.

    No `Exception`, so that nobody who isolates the failures of a network takes it for one of those.
    """


def reason(error: Exception) -> str:
    """What a client is told: no message, which may hold paths or another client's values."""
    return "out of memory" if isinstance(error, MemoryError) else f"the model raised {type(error).__name__}"
