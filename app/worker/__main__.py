"""`python -m app.worker --fd N`: the process that owns a device, with one end of a socket pair."""

import argparse
import signal
import socket
import sys

from app import logs
from app.worker.loop import WorkerLoop


def main() -> int:
    """Serve the socket until its other end closes."""
    parser = argparse.ArgumentParser(prog="python -m app.worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="inherited file descriptor of a connected stream socket")
    parser.add_argument("--log-level", default="info", help="least severe line to log")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # the HTTP process drains first, then closes the socket
        signal.signal(number, signal.SIG_IGN)
    logs.configure(arguments.log_level)
    return WorkerLoop(socket.socket(fileno=arguments.fd)).run()


if __name__ == "__main__":
    sys.exit(main())
