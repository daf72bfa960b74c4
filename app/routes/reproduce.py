"""The headers from which, with the request, an output can be made again."""

from fastapi import Request

from app.engine.engine import Engine
from app.service import Plan


def reproduction_headers(request: Request, plan: Plan) -> dict[str, str]:
    """Model and digest, seed, runtime; also tells the request log and the metrics which model answered."""
    request.scope["model"] = plan.info.name
    engine: Engine = request.app.state.engine
    return {
        "X-Genserve-Model": plan.info.identity,
        "X-Genserve-Seed": str(plan.seed),
        "X-Genserve-Runtime": str(engine.runtime),
    }
