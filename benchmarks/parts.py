"""The parts that the limit is composed of, each measured alone and in a process of its own.

    python -m benchmarks.parts request PORT      serves our request, validated, with a 1 KB answer and no generation
    python -m benchmarks.parts model GENERATOR   prints the CPU seconds of one row of the best batch, as JSON
    python -m benchmarks.parts png GENERATOR     prints the CPU seconds of one PNG file, as JSON

`limit.py` calls them.
"""

import io
import json
import os
import sys
import time
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app import codecs, server
from app.codecs import Provenance
from app.engine.engine import worker_configs
from app.main import _base_config
from app.routes.body import read_json
from app.schemas.images import ImageRequest
from app.settings import Settings
from benchmarks.generators import folder_of
from benchmarks.peers.contract import Body, Config

PATH = "/v1/images/generate"
ANSWER = bytes(1024)
LOADS = 3
PICTURES, ROUNDS = 64, 20


def request(port: str) -> None:
    """Our request, read and validated as our route does, on a bare Starlette route and our own server's protocol."""

    async def generate(request: Request) -> Response:
        await read_json(request, ImageRequest)
        return Response(ANSWER, media_type=codecs.MEDIA_TYPES["png"])

    app = Starlette(routes=[Route(PATH, generate, methods=["POST"])])
    app.state.settings = Settings()
    quiet: dict[str, Any] = {"log_config": None, "access_log": False, "server_header": False, "proxy_headers": False}
    uvicorn.run(app, host="127.0.0.1", port=int(port), http=server.Protocol, backlog=server.BACKLOG, **quiet)


def model(generator: str) -> dict[str, Any]:
    """What the worker itself measures at its start, as shipped: the cheapest row over all of its batch sizes."""
    from app.worker import registry  # torch: only here

    folder = folder_of(generator)
    settings = Settings(weights=folder.parent, models=(generator,))
    (config,) = worker_configs(_base_config(settings), settings.devices, len(os.sched_getaffinity(0)))
    best: list[tuple[float, int]] = []
    for _ in range(LOADS):
        loaded = registry.load(config)
        (info,) = loaded.models
        seconds = zip(info.seconds, info.buckets, strict=True)
        best.append(min((took * info.threads / rows, rows) for took, rows in seconds))
    cpu_seconds, batch = min(best)
    return {"cpu_seconds": cpu_seconds, "batch": batch, "threads": info.threads}


def png(generator: str) -> dict[str, Any]:
    """Encoding of pictures that the generator makes: the best of several rounds."""
    from benchmarks.peers.generator import Generator  # torch: only here

    files = Generator(Config(folder_of(generator), port=0, max_batch=PICTURES)).pictures([Body()] * PICTURES)
    pictures = [np.asarray(Image.open(io.BytesIO(file))) for file in files]
    pictures = [picture.reshape(*picture.shape[:2], -1) for picture in pictures]
    story = Provenance(f"{generator}@0123456789ab", {"seed": 2**52, "label": 7})
    took = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for picture in pictures:
            codecs.encode(picture, "png", story)
        took.append((time.process_time() - start) / len(pictures))
    return {"cpu_seconds": min(took)}


if __name__ == "__main__":
    part, argument = sys.argv[1:]
    said = {"request": request, "model": model, "png": png}[part](argument)
    if said is not None:
        print(json.dumps(said))
