"""What ends the making of a set, beside what ends any conversation with the service: a line and an exit status."""

from app.bench.errors import BenchError


class WrongFolder(BenchError):
    """The folder holds something else, or another set, or is being written by another process."""

    status = 2


class DiskFailed(BenchError):
    """The system does not write or read a file; nothing that was there before is lost."""
