"""`python -m app.worker --fd N`: the process that owns a device, with one end of a socket pair.

With `--told N` it is handed that end, and its marks, over socket N when it is wanted. Exit status: 0 when the other
side has closed the link, 1 when the models can't be loaded or the loop has a bug, 70 when the device is unusable.
"""

import argparse
import os
import signal
import socket
import sys

from app import logs
from app.engine.marks import Marks
from app.worker.loop import WorkerLoop
from app.worker.orphan import end_with


def main() -> int:
    """Serve the socket until its other end closes."""
    parser = argparse.ArgumentParser(prog="python -m app.worker", description=__doc__)
    link = parser.add_mutually_exclusive_group(required=True)
    link.add_argument("--fd", type=int, help="inherited file descriptor of a connected stream socket")
    link.add_argument("--told", type=int, help="inherited file descriptor of a socket over which fd and marks come")
    parser.add_argument("--marks", type=int, help="inherited file descriptor of the marks of what is computed")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="process without which this one ends")
    parser.add_argument("--log-level", default="info", help="least severe line to log")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # the HTTP process drains first, then closes the socket
        signal.signal(number, signal.SIG_IGN)
    logs.configure(arguments.log_level)
    if not end_with(arguments.parent):
        return 0
    fd, marks = (arguments.fd, arguments.marks) if arguments.told is None else _told(arguments.told)
    if fd is None:
        return 0
    attached = None if marks is None else Marks.attach(marks)
    return WorkerLoop(socket.socket(fileno=fd), attached, abort=os._exit).run()


def _told(told: int) -> tuple[int | None, int | None]:
    """The descriptors of link and marks; None when this worker is not wanted after all."""
    with socket.socket(fileno=told) as sock:
        _, descriptors, *_ = socket.recv_fds(sock, 1, 2)
    fd, marks, *_ = *descriptors, None, None
    return fd, marks


if __name__ == "__main__":
    sys.exit(main())
