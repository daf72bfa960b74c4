"""BentoML as the fault tests run it: the two services of its documentation, each with a time limit for requests."""

import sys
from typing import Annotated

import bentoml
from bentoml.validators import ContentType

from benchmarks.peers import faults  # makes the network known
from benchmarks.peers.bentoml_service import BATCHING, NETWORK, QUIET, Network, config
from benchmarks.peers.contract import MEDIA_TYPE, ROUTE, Body

TRAFFIC = {"timeout": faults.timeout(60.0)}


@bentoml.service(name="fault_behind", traffic=TRAFFIC, **NETWORK)
class FaultBehind(Network):
    """With the network."""

    @bentoml.api(**BATCHING)
    def pictures(self, bodies: list[Body]) -> list[bytes]:
        return self.generator.pictures(bodies)


@bentoml.service(name="fault_front", workers=1, logging=QUIET, traffic=TRAFFIC)
class FaultFront:
    """Takes single requests."""

    behind = bentoml.depends(FaultBehind)

    @bentoml.api(route=ROUTE, input_spec=Body)
    async def generate(self, **body: int | None) -> Annotated[bytes, ContentType(MEDIA_TYPE)]:
        (content,) = await self.behind.to_async.pictures([Body(**body)])
        return content


if __name__ == "__main__":
    from bentoml_cli.cli import cli

    target = "benchmarks.peers.fault_bentoml:FaultFront"
    sys.argv[1:] = ["serve", target, "--host", "127.0.0.1", "--port", str(config.port)]
    cli()
