"""`python -m app.worker --fd N`: the process that owns a device, with one end of a socket pair.

Exit status: 0 when the other side has closed the link, 1 when the models can't be loaded or the loop has a bug, 70 when
the device is unusable.
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
    parser.add_argument("--fd", type=int, required=True, help="inherited file descriptor of a connected stream socket")
    parser.add_argument("--marks", type=int, help="inherited file descriptor of the marks of what is computed")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="process without which this one ends")
    parser.add_argument("--log-level", default="info", help="least severe line to log")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # the HTTP process drains first, then closes the socket
        signal.signal(number, signal.SIG_IGN)
    logs.configure(arguments.log_level)
    if not end_with(arguments.parent):
        return 0
    marks = None if arguments.marks is None else Marks.attach(arguments.marks)
    return WorkerLoop(socket.socket(fileno=arguments.fd), marks, abort=os._exit).run()


if __name__ == "__main__":
    sys.exit(main())
