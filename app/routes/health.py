"""Liveness says that the event loop turns; readiness says whether work is taken and done. Health never needs keys."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from app.engine.canary import Canary
from app.engine.engine import Engine
from app.schemas.health import Health

router = APIRouter()


@router.get("/health/live", summary="Liveness", response_model=Health)
async def live() -> JSONResponse:
    """200 as long as the process can answer at all."""
    return JSONResponse(Health(status="alive").model_dump(exclude_none=True))


@router.get("/health/ready", summary="Readiness", response_model=Health, responses={503: {"model": Health}})
async def ready(request: Request) -> JSONResponse:
    """200 while work is taken and done; 503 while loading, restarting or draining, or after a failure.

    After some idle time a small job is run before this answers.
    """
    engine: Engine = request.app.state.engine
    canary: Canary = request.app.state.canary
    health = await _health(engine, canary)
    return JSONResponse(health.model_dump(exclude_none=True), 200 if health.status == "ready" else 503)


async def _health(engine: Engine, canary: Canary) -> Health:
    models = {name: info.error is None for name, info in engine.models.items()} or None
    if engine.failure is not None:
        return Health(status="failed", detail=engine.failure, models=models)
    if engine.draining:
        return Health(status="draining", models=models)
    trouble = await canary.trouble() if engine.ready else None
    if not engine.ready:  # asked again: a worker may have ended meanwhile
        return Health(status="restarting" if engine.restarting else "loading", models=models)
    if trouble is not None:
        return Health(status="unresponsive", detail=trouble, models=models)
    return Health(status="ready", models=models)
