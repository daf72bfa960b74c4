"""mosec with its dynamic batching: HTTP in Rust, workers in Python."""

import sys
from typing import Any

import pydantic
from mosec import Server, ValidationError, Worker

from benchmarks.peers.contract import MEDIA_TYPE, ROUTE, Body, Config

config = Config.from_environment()


class Pictures(Worker):
    """Bytes in, validated; PNG files out."""

    resp_mime_type = MEDIA_TYPE

    def __init__(self) -> None:
        from benchmarks.peers.generator import Generator  # torch belongs to the workers, not to the parent process

        self.generator = Generator(config)

    def deserialize(self, data: bytes) -> Body:
        try:
            return Body.model_validate_json(data)
        except pydantic.ValidationError as error:
            raise ValidationError(str(error)) from error

    def forward(self, data: list[Body]) -> list[bytes]:
        return self.generator.pictures(data)

    def serialize(self, data: Any) -> bytes:
        return data


if __name__ == "__main__":
    # 0 in `append_worker` means the command line's --wait, whose default is 10 ms: so it is given there.
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", str(config.port), "--wait", str(config.window)]
    sys.argv += ["--log-level", "warning", "--capacity", "4096"]
    server = Server()
    server.append_worker(Pictures, num=config.workers, max_batch_size=config.max_batch, route=ROUTE)
    server.run()
