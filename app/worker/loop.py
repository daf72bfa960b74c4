"""The device worker's loop: frames in, one tick of a lane, frames out.

Knows sockets, frames and lanes. Blocks on the socket while there is nothing to do, so an idle worker uses no CPU.
"""

import dataclasses
import gc
import logging
import select
import socket
from collections.abc import Mapping
from typing import Any

from app.engine.jobs import LatentJob, WorkerConfig
from app.engine.link import Frame, FrameReader, pack
from app.worker import registry
from app.worker.dynamic import BatchResult, DynamicBatcher
from app.worker.schedule import Schedule

CHUNK = 1 << 20

log = logging.getLogger("genserve.worker")


class WorkerLoop:
    """One end of a socket pair and the lanes behind it."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over a connected stream socket; `run` closes it."""
        self._sock = sock
        self._reader = FrameReader()
        self._lanes: dict[str, DynamicBatcher] = {}
        self._open = True

    def run(self) -> int:
        """Load what the first frame asks for, then serve until the other side closes; the exit status."""
        with self._sock:
            try:
                return self._run()
            except (BrokenPipeError, ConnectionResetError):  # the other side is gone, and so is our purpose
                return 0

    def _run(self) -> int:
        config = self._receive_config()
        if config is None:
            return 0
        try:
            loaded = registry.load(config)
        except registry.RegistryError as error:
            self._send({"type": "failed", "error": str(error)})
            return 1
        self._lanes = loaded.lanes
        gc.collect()
        gc.freeze()  # a full collection with torch imported takes tens of milliseconds
        models = [dataclasses.asdict(model) for model in loaded.models]
        self._send({"type": "ready", "models": models, "runtime": dataclasses.asdict(loaded.runtime)})
        self._serve()
        return 0

    def _receive_config(self) -> WorkerConfig | None:
        while data := self._sock.recv(CHUNK):
            for frame in self._reader.feed(data):
                raw = dict(frame.header["config"])
                return WorkerConfig(**{**raw, "models": tuple(raw["models"])})
        return None

    def _serve(self) -> None:
        schedule = Schedule(dict(self._lanes))
        while self._open:
            name = schedule.next()
            if name is None:
                self._receive()
                continue
            while self._open and select.select([self._sock], [], [], 0)[0]:
                self._receive()
            if self._lanes[name].waiting:  # its last rows may just have been cancelled
                result = self._lanes[name].tick()
                schedule.charge(name, result.seconds)
                self._send_result(name, result)

    def _receive(self) -> None:
        """Take in what the socket holds, waiting for it if it holds nothing."""
        data = self._sock.recv(CHUNK)
        if not data:
            self._open = False
        for frame in self._reader.feed(data):
            self._handle(frame)

    def _handle(self, frame: Frame) -> None:
        match frame.type:
            case "submit":
                arrays = iter(frame.arrays)
                for number, model in frame.header["jobs"]:
                    self._lanes[model].submit(number, LatentJob(model, next(arrays), next(arrays)))
            case "cancel":
                numbers = set(frame.header["jobs"])
                for lane in self._lanes.values():
                    lane.cancel(numbers)

    def _send_result(self, model: str, result: BatchResult) -> None:
        header = {
            "type": "batch",
            "model": model,
            "parts": [(part.job, part.offset, part.count, part.error) for part in result.parts],
            "waited": result.waited,
            "rows": result.rows,
            "padding": result.padding,
            "seconds": result.seconds,
        }
        self._send(header, result.pictures)

    def _send(self, header: Mapping[str, Any], *arrays: Any) -> None:
        for buffer in pack(header, arrays):
            self._sock.sendall(buffer)
