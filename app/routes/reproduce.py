"""The headers from which, with the request, an output can be made again."""

from fastapi import Request

from app.engine.engine import Engine
from app.engine.jobs import ModelInfo


def reproduction_headers(request: Request, info: ModelInfo, seed: int | None) -> dict[str, str]:
    """Model and digest, seed, runtime, decoder if there is one; log and metrics learn which model answered."""
    request.scope["model"] = info.name
    engine: Engine = request.app.state.engine
    assert engine.runtime is not None, "a model answered, so its worker is ready"
    headers = {
        "X-Genserve-Model": info.identity,
        "X-Genserve-Seed": "none" if seed is None else str(seed),
        "X-Genserve-Runtime": engine.runtime.of(info),
    }
    if info.task == "captions":  # two models answered
        decoder = engine.models[info.output["decoder"]]
        headers["X-Genserve-Decoder"] = f"{decoder.identity}; {decoder.dtype}; threads={decoder.threads}"
    return headers
