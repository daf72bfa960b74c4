"""Liveness says that the event loop turns; readiness says whether work is taken. Health never needs keys."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from app.engine.engine import Engine
from app.schemas import Health

router = APIRouter()


@router.get("/health/live", summary="Liveness", response_model=Health)
async def live() -> JSONResponse:
    """200 as long as the process can answer at all."""
    return JSONResponse(Health(status="alive").model_dump(exclude_none=True))


@router.get("/health/ready", summary="Readiness", response_model=Health, responses={503: {"model": Health}})
async def ready(request: Request) -> JSONResponse:
    """200 once every model is loaded and warmed up; 503 while loading, draining or after a failure."""
    engine: Engine = request.app.state.engine
    models = {name: info.error is None for name, info in engine.models.items()} or None
    if engine.failure is not None:
        health = Health(status="failed", detail=engine.failure, models=models)
    elif engine.draining:
        health = Health(status="draining", models=models)
    else:
        health = Health(status="ready" if engine.ready else "loading", models=models)
    return JSONResponse(health.model_dump(exclude_none=True), 200 if health.status == "ready" else 503)
