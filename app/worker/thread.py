"""A device worker in a thread of this process, for tests and for embedding; the loop is the very one of the process."""

import os
import socket
import threading

from app.engine.marks import Marks
from app.worker.loop import WorkerLoop


class WorkerThread:
    """Fits `app.engine.supervisor.Launch`: `create_app(settings, launch=WorkerThread)`."""

    def __init__(self, sock: socket.socket, marks: Marks | None = None) -> None:
        self._status: int | None = None
        # Its own view of the marks, as in a process: it may outlive the other side's.
        self._marks = None if marks is None else Marks.attach(os.dup(marks.fd))
        self._loop = WorkerLoop(sock, self._marks)
        self._thread = threading.Thread(target=self._run, name="genserve-worker", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._status = 1  # what an exception leaves behind
        try:
            self._status = self._loop.run()
        finally:
            if self._marks is not None:
                self._marks.close()

    @property
    def pid(self) -> int:
        """This process."""
        return os.getpid()

    def wait(self, timeout: float) -> int | None:
        """Wait for the loop to end; its exit status, or None when it is not over in time."""
        self._thread.join(timeout)
        return None if self._thread.is_alive() else self._status

    def kill(self) -> None:
        """A thread can't be killed; it ends with the process."""
