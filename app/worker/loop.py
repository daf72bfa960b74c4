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

from app.engine.jobs import LatentJob, Sampling, SequenceJob, WorkerConfig
from app.engine.link import Frame, FrameReader, pack
from app.worker import registry
from app.worker.continuous import ContinuousBatcher
from app.worker.dynamic import DynamicBatcher
from app.worker.schedule import Schedule

CHUNK = 1 << 20

log = logging.getLogger("genserve.worker")


class WorkerLoop:
    """One end of a socket pair and the lanes behind it."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over a connected stream socket; `run` closes it."""
        self._sock = sock
        self._reader = FrameReader()
        self._lanes: dict[str, registry.Lane] = {}
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
            loaded = registry.load(config, self._frames_wait)
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
            while self._open and self._frames_wait():
                self._receive()
            name = schedule.next()
            if name is None:
                self._receive()
                continue
            result = self._lanes[name].tick()
            schedule.charge(name, result.seconds)
            header, arrays = result.frame(name)
            self._send(header, *arrays)

    def _frames_wait(self) -> bool:
        """Whether the other side has said something that was not read yet."""
        return bool(select.select([self._sock], [], [], 0)[0])

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
                    lane = self._lanes[model]
                    assert isinstance(lane, DynamicBatcher)
                    lane.submit(number, LatentJob(model, next(arrays), next(arrays)))
            case "sequences":
                for number, raw in frame.header["jobs"]:
                    job = _sequence_job(raw)
                    sequences = self._lanes[job.model]
                    assert isinstance(sequences, ContinuousBatcher)
                    sequences.submit(number, job)
            case "cancel":
                numbers = set(frame.header["jobs"])
                for name, lane in self._lanes.items():
                    lane.cancel(numbers)
                    if isinstance(lane, ContinuousBatcher):  # no tick may follow that would tell
                        self._send({"type": "slots", "model": name, "busy": lane.busy})

    def _send(self, header: Mapping[str, Any], *arrays: Any) -> None:
        for buffer in pack(header, arrays):
            self._sock.sendall(buffer)


def _sequence_job(raw: Mapping[str, Any]) -> SequenceJob:
    """A job as it came over the link, where tuples have become lists and dataclasses maps."""
    sampling = {**raw["sampling"], "bias": tuple((token, value) for token, value in raw["sampling"]["bias"])}
    tuples = {name: tuple(raw[name]) for name in ("prompt", "stop_tokens")}
    return SequenceJob(**{**raw, **tuples, "sampling": Sampling(**sampling)})
