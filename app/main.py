"""`create_app`: settings in, ASGI application out; the lifespan loads, warms up, serves, and stops the workers."""

import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from pydantic.json_schema import models_json_schema
from starlette.types import ASGIApp

from app import heap
from app.audio import Speaker
from app.completion import Completer
from app.engine.canary import Canary
from app.engine.engine import Engine, worker_configs
from app.engine.jobs import ModelInfo, WorkerConfig
from app.engine.keeper import Patience
from app.engine.supervisor import Launch, WorkerProcess
from app.routes import (
    audio,
    chat,
    completions,
    encode,
    health,
    images,
    inpaint,
    metrics,
    models,
    openai,
    problems,
    speech,
    text,
)
from app.routes.envelope import Envelope
from app.schemas.audio import AudioRequest, OpenAISpeechRequest
from app.schemas.chat import OpenAIChatRequest
from app.schemas.completions import OpenAICompletionRequest
from app.schemas.encode import EncodeRequest, ReconstructRequest
from app.schemas.images import ImageAnswer, ImageRequest
from app.schemas.inpaint import InpaintRequest
from app.schemas.openai import OpenAIImageRequest
from app.schemas.problems import Problem
from app.schemas.text import TextRequest
from app.service import Service
from app.settings import Settings
from app.telemetry import Telemetry

DOCUMENTED = (
    ImageRequest,
    ImageAnswer,
    EncodeRequest,
    ReconstructRequest,
    InpaintRequest,
    TextRequest,
    AudioRequest,
    OpenAISpeechRequest,
    OpenAIImageRequest,
    OpenAICompletionRequest,
    OpenAIChatRequest,
    Problem,
)

DIRECT = {
    ("POST", "/v1/images/generate"): images.generate,
    ("POST", "/v1/text/complete"): text.complete,
    ("POST", "/v1/audio/generate"): audio.generate,
    ("POST", "/v1/audio/speech"): speech.speech,
    ("POST", "/v1/completions"): completions.completions,
    ("POST", "/v1/chat/completions"): chat.chat_completions,
}

log = logging.getLogger("genserve")


def create_app(
    settings: Settings | None = None, *, launch: Launch = WorkerProcess, on_failure: Callable[[], None] | None = None
) -> FastAPI:
    """Build the application.

    Args:
        settings: read from the environment when left out.
        launch: how a worker is started; a process of its own unless a test or an embedder says otherwise.
        on_failure: called when the engine can't go on; by default the process asks itself to stop (SIGTERM).
    """
    settings = settings or Settings()
    telemetry = Telemetry()
    app = FastAPIOffline(
        title="Genserve",
        version=version("genserve"),
        description="Pictures, text and speech from small generative models, batched.",
        lifespan=_lifespan,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours is /metrics; looking for others costs
    )
    app.state.settings, app.state.telemetry, app.state.launch = settings, telemetry, launch
    app.state.on_failure = on_failure or (lambda: os.kill(os.getpid(), signal.SIGTERM))
    for module in (images, encode, inpaint, text, audio, speech, openai, completions, chat, models, health, metrics):
        app.include_router(module.router)
    problems.install(app)
    _enclose(app, telemetry)
    _document(app)
    return app


def _enclose(app: FastAPI, telemetry: Telemetry) -> None:
    """Put the envelope around everything that the framework puts around the routes."""
    build = app.build_middleware_stack

    def build_enclosed() -> ASGIApp:
        return Envelope(build(), telemetry, DIRECT)

    app.build_middleware_stack = build_enclosed  # type: ignore[method-assign]


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """HTTP is up at once, so that liveness and readiness tell the truth while models are loaded."""
    settings: Settings = app.state.settings
    telemetry: Telemetry = app.state.telemetry
    engine = Engine(
        worker_configs(_base_config(settings), settings.devices, len(os.sched_getaffinity(0))),
        max_queue=settings.max_queue,
        telemetry=telemetry,
        on_failure=app.state.on_failure,
        launch=app.state.launch,
        patience=Patience(settings.watchdog, settings.max_restarts),
    )
    service = Service(engine, telemetry, settings.max_pixels, settings.max_upload_pixels)
    app.state.engine, app.state.service, app.state.completer = engine, service, Completer(engine)
    app.state.speaker = Speaker(engine, telemetry, settings.max_audio_seconds)
    app.state.canary = Canary(engine)
    engine.when_ready(app.state.completer.prepare)
    engine.when_ready(service.captions.prepare)
    engine.when_ready(lambda: _announce(engine, telemetry))
    await engine.start()
    try:
        yield
    finally:
        await engine.stop()
        service.close()
        app.state.completer.close()


def _base_config(settings: Settings) -> WorkerConfig:
    return WorkerConfig(
        weights=str(settings.weights),
        models=settings.models,
        dtype=settings.dtype,
        threads=settings.threads,
        max_batch=settings.max_batch,
        max_slots=settings.max_slots,
        memory_limit=settings.memory_limit,
        models_module=settings.models_module,
        skip_broken=settings.broken_models == "skip",
    )


def _announce(engine: Engine, telemetry: Telemetry) -> None:
    """Everything is loaded: show it, count it, and keep the collector away from what will stay."""
    infos = list(engine.models.values())
    log.info("ready on %s\n%s", engine.runtime, table(infos))
    for info in infos:
        telemetry.model_ready.labels(info.name).set(info.error is None)
        if info.error is None:
            telemetry.model_info.labels(info.name, info.architecture, info.digest).set(1)
            telemetry.model_memory.labels(info.name).set(info.memory_bytes)
    heap.settle()


def table(infos: list[ModelInfo]) -> str:
    """Models with parameters, memory, speed and exact batch sizes, one line each."""
    titles = f"  {'model':<24}{'architecture':<16}{'parameters':>12}{'memory':>13}{'makes':>18}{'speed':>18}"
    lines = [f"{titles}  {'computes in':<22}batches"]
    for info in infos:
        if info.error is not None:
            lines.append(f"  {info.name:<24}failed: {info.error}")
            continue
        makes, speed = _makes(info)
        precision = f"{info.dtype}, {info.threads} thread{'' if info.threads == 1 else 's'}"
        lines.append(
            f"  {info.name:<24}{info.architecture:<16}{info.parameters:>12,}{info.memory_bytes / 2**20:>9.1f} MiB"
            f"{makes:>22}{speed:>18}  {precision:<22}{', '.join(map(str, info.buckets))}"
        )
    return "\n".join(lines)


def _makes(info: ModelInfo) -> tuple[str, str]:
    """What a model makes and how fast, as measured at warm-up."""
    if info.kind == "sequence":
        what = {"captions": "codes", "speech": "samples"}.get(info.task, "tokens")
        return f"{info.slots} x {info.max_length} {what}", f"{info.seconds[-1] * 1000:.2f} ms/step"
    height, width, channels = info.image_shape
    return f"{width}x{height}x{channels}", f"{info.seconds[-1] / info.buckets[-1] * 1000:.2f} ms/image"


def _document(app: FastAPI) -> None:
    """Add the bodies that routes read themselves to the OpenAPI document."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        _, extra = models_json_schema(
            [(schema, "validation") for schema in DOCUMENTED], ref_template="#/components/schemas/{model}"
        )
        known = document.setdefault("components", {}).setdefault("schemas", {})
        known.update(extra["$defs"])
        for name in ("HTTPValidationError", "ValidationError"):  # the framework's own 422, which is never sent
            known.pop(name, None)
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI documents
