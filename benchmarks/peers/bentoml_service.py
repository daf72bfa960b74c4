"""BentoML with its adaptive batching; it learns how long to wait instead of having a fixed window.

A batchable endpoint takes and gives lists. Variant "two-services" is the composition of BentoML's documentation: a
service that takes single requests in front of the one with the network. Variant "one-service" spares that hop with a
specification of our own for what goes in and out, which makes a list of one of each request.

What comes nearest to a window is `max_latency_ms`, beyond which BentoML answers 503; that is swept. BentoML closes the
connections between its services every 100 requests, with all that is in flight on them (a quarter of all requests then
fail at 32 clients); `runner_connection` turns this off.
"""

import sys
from typing import Annotated, Any

import bentoml
from _bentoml_sdk.io_models import IORootModel
from bentoml.validators import ContentType
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.peers.contract import MEDIA_TYPE, ROUTE, Body, Config

config = Config.from_environment()
QUIET = {"access": {"enabled": False}}
NEVER = 1_000_000_000
NETWORK = {
    "workers": config.workers,
    "threads": 1,  # that run the network; torch has its own
    "resources": {"cpu": config.threads},
    "logging": QUIET,
    "runner_connection": {"max_requests": NEVER, "max_age": float(NEVER)},
}
BATCHING = {"batchable": True, "max_batch_size": config.max_batch, "max_latency_ms": config.window}


class Row(IORootModel[list[Body]]):
    """One request as a batch of one."""

    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> "Row":  # noqa: ARG003  # BentoML's signature
        return cls([Body.model_validate_json(await request.body())])


class File(IORootModel[list[bytes]]):
    """A batch of one as one answer."""

    @classmethod
    async def to_http_response(cls, obj: list[bytes], serde: Any) -> Response:  # noqa: ARG003
        return Response(obj[0], media_type=MEDIA_TYPE)


class Network:
    """Batches of bodies to PNG files."""

    def __init__(self) -> None:
        from benchmarks.peers.generator import Generator  # torch belongs to this service's processes

        self.generator = Generator(config)


@bentoml.service(name="alone", **NETWORK)
class Alone(Network):
    """Variant "one-service"."""

    @bentoml.api(route=ROUTE, input_spec=Row, output_spec=File, **BATCHING)
    def generate(self, bodies: list[Body]) -> list[bytes]:
        return self.generator.pictures(bodies)


@bentoml.service(name="behind", **NETWORK)
class Behind(Network):
    """The second of two services."""

    @bentoml.api(**BATCHING)
    def pictures(self, bodies: list[Body]) -> list[bytes]:
        return self.generator.pictures(bodies)


@bentoml.service(name="front", workers=1, logging=QUIET)
class Front:
    """Variant "two-services"."""

    behind = bentoml.depends(Behind)

    @bentoml.api(route=ROUTE, input_spec=Body)
    async def generate(self, **body: int | None) -> Annotated[bytes, ContentType(MEDIA_TYPE)]:
        (content,) = await self.behind.to_async.pictures([Body(**body)])
        return content


if __name__ == "__main__":
    from bentoml_cli.cli import cli

    service = "Alone" if config.variant == "one-service" else "Front"
    target = f"benchmarks.peers.bentoml_service:{service}"
    sys.argv[1:] = ["serve", target, "--host", "127.0.0.1", "--port", str(config.port)]
    cli()
