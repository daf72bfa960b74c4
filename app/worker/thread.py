"""A device worker in a thread of this process, for tests and for embedding; the loop is the very one of the process."""

import os
import socket
import threading

from app.worker.loop import WorkerLoop


class WorkerThread:
    """Fits `app.engine.supervisor.Launch`: `create_app(settings, launch=WorkerThread)`."""

    def __init__(self, sock: socket.socket) -> None:
        self._status: int | None = None
        self._loop = WorkerLoop(sock)
        self._thread = threading.Thread(target=self._run, name="genserve-worker", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._status = 1  # what an exception leaves behind
        self._status = self._loop.run()

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
