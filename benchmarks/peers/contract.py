"""What all peers share besides the generator: the request's body and how the server is configured. Imports no torch."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.latents import MAX_SEED

ROUTE = "/generate"
MEDIA_TYPE = "image/png"
PREFIX = "PEER_"


class Body(BaseModel):
    """Body of `POST /generate`: one picture."""

    model_config = ConfigDict(extra="forbid")

    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    label: Annotated[int, Field(ge=0, le=9)] | None = None


@dataclass(frozen=True)
class Config:
    """One way to run a peer, handed over in the environment.

    Attributes:
        weights: the weights folder.
        dtype: of the network, "float32" or "bfloat16".
        threads: compute threads of each worker.
        workers: processes that hold the network.
        window: milliseconds that a batch may wait for more requests.
        max_batch: largest batch.
        variant: a choice that only this peer has; "" is its first one.
        packed: 1 gives the peer the network as the service's worker prepares it, 0 as PyTorch has it.
        port: on 127.0.0.1.
    """

    weights: Path
    port: int
    dtype: str = "float32"
    threads: int = 1
    workers: int = 1
    window: int = 0
    max_batch: int = 32
    variant: str = ""
    packed: int = 0

    def environment(self) -> dict[str, str]:
        """As environment variables."""
        return {PREFIX + name.upper(): str(value) for name, value in vars(self).items()}

    @classmethod
    def from_environment(cls) -> "Config":
        """From the environment variables that `environment` gave."""
        given = {name.removeprefix(PREFIX).lower(): v for name, v in os.environ.items() if name.startswith(PREFIX)}
        numbers = {name: int(given[name]) for name in ("port", "threads", "workers", "window", "max_batch", "packed")}
        return cls(Path(given["weights"]), dtype=given["dtype"], variant=given["variant"], **numbers)
