"""What ends a measurement before or while it runs: one line for the user and the exit status that goes with it."""


class BenchError(Exception):
    """The base: nothing more can be measured."""

    status = 1


class Unusable(BenchError):
    """The service can't be reached, isn't ready, or doesn't answer as it should."""


class BadFlag(BenchError):
    """What was asked for can't be measured, here or at all."""

    status = 2
