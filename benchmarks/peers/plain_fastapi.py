"""Plain FastAPI, no batching: what most people write first, with uvloop and httptools.

Variant "thread" is a `def` endpoint with a lock around the network, "inline" an `async def` one that computes on the
event loop; with one client the latter saves the hop to a thread.
"""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Response

from benchmarks.peers.contract import MEDIA_TYPE, ROUTE, Body, Config

config = Config.from_environment()
lock = threading.Lock()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    from benchmarks.peers.generator import Generator  # torch belongs to the workers, not to uvicorn's supervisor

    app.state.generator = Generator(config)
    yield


app = FastAPI(lifespan=lifespan)


def in_thread(body: Body) -> Response:
    with lock:
        (content,) = app.state.generator.pictures([body])
    return Response(content, media_type=MEDIA_TYPE)


async def inline(body: Body) -> Response:
    (content,) = app.state.generator.pictures([body])
    return Response(content, media_type=MEDIA_TYPE)


app.post(ROUTE)(inline if config.variant == "inline" else in_thread)

if __name__ == "__main__":
    uvicorn.run(
        "benchmarks.peers.plain_fastapi:app",
        host="127.0.0.1",
        port=config.port,
        workers=config.workers,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
