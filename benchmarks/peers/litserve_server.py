"""LitServe with its dynamic batching; variant "fast-queue" sends requests to the workers over ZeroMQ."""

import litserve
from fastapi import Response

from benchmarks.peers.contract import MEDIA_TYPE, ROUTE, Body, Config

config = Config.from_environment()


class Pictures(litserve.LitAPI):
    """Bodies are validated by the HTTP process; the whole batch is answered with finished files."""

    def setup(self, device: str) -> None:  # noqa: ARG002  # LitServe's signature
        from benchmarks.peers.generator import Generator  # torch belongs to the workers

        self.generator = Generator(config)

    def decode_request(self, request: Body) -> Body:
        return request

    def batch(self, inputs: list[Body]) -> list[Body]:
        return inputs

    def predict(self, batch: list[Body]) -> list[bytes]:
        return self.generator.pictures(batch)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type=MEDIA_TYPE)


if __name__ == "__main__":
    api = Pictures(max_batch_size=config.max_batch, batch_timeout=config.window / 1000, api_path=ROUTE)
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        devices=1,
        workers_per_device=config.workers,
        timeout=False,
        fast_queue=config.variant == "fast-queue",
    )
    server.run(
        host="127.0.0.1",
        port=config.port,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
        loop="uvloop",
        http="httptools",
    )
