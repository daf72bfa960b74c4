"""`GET /v1/models`: what is served, in OpenAI's shape, with each model's card under `genserve`."""

from typing import Any

from fastapi import APIRouter, Request

from app.captions import MOST_LISTED, Captions
from app.completion import Completer
from app.engine.engine import Engine
from app.engine.jobs import MAKES, ModelInfo
from app.errors import ModelNotFound
from app.routes import problems
from app.schemas.models import ModelList, ModelObject

router = APIRouter()


def _object(info: ModelInfo, completer: Completer) -> ModelObject:
    if info.error is not None:
        return ModelObject(id=info.name, created=0, genserve={"status": "failed", "error": info.error})
    card = {
        **info.card,
        "status": "ready",
        "kind": info.kind,
        "makes": MAKES[info.task],
        "architecture": info.architecture,
        "digest": info.digest,
        "parameters": info.parameters,
        "memory_bytes": info.memory_bytes,
        "dtype": info.dtype,
        **(_picture_fields(info) if info.kind == "latent" else _sequence_fields(info, completer)),
        "batch_buckets": list(info.buckets),
    }
    return ModelObject(id=info.name, created=info.created, genserve=card)


def _picture_fields(info: ModelInfo) -> dict[str, Any]:
    height, width, channels = info.image_shape
    return {
        "latent_shape": list(info.latent_shape),
        "styles": info.styles,
        "encodes": info.encodes,
        "inpaints": info.inpaints,
        "critic": info.critic or None,
        "controls": {name: dict(control) for name, control in info.controls.items()},
        "num_classes": info.num_classes,
        "labels": list(info.labels),
        "image": {"height": height, "width": width, "channels": channels},
        **({"codes": info.codes, "codes_from": info.codes_from} if info.codes else {}),
    }


def _sequence_fields(info: ModelInfo, completer: Completer) -> dict[str, Any]:
    fields = {"vocab_size": info.vocab_size, "max_length": info.max_length, "slots": info.slots}
    if info.task == "text":
        ends = {"start_tokens": list(info.start_tokens), "stop_tokens": list(info.stop_tokens)}
        return {"chat": completer.chats(info), **fields, **ends}
    height, width, channels = info.image_shape
    image = {"height": height, "width": width, "channels": channels}
    return {**fields, "output": dict(info.output), **({"image": image} if info.task == "captions" else {})}


def _words(info: ModelInfo, captions: Captions) -> dict[str, Any]:
    """The words that a model's captions are made of, unless they are too many to be shown."""
    if info.error is not None or info.task != "captions":
        return {}
    words = captions.vocabulary(info).words
    return {"words": words if len(words) <= MOST_LISTED else None}


@router.get(
    "/v1/models",
    summary="List models",
    response_model=ModelList,
    responses=problems.responses(503, openai=True),
)
async def list_models(request: Request) -> ModelList:
    """All models, those that failed to load among them."""
    engine: Engine = request.app.state.engine
    engine.check_open()
    return ModelList(data=[_object(info, request.app.state.completer) for info in engine.models.values()])


@router.get(
    "/v1/models/{name}",
    summary="Show one model",
    response_model=ModelObject,
    responses=problems.responses(404, 503, openai=True),
)
async def show_model(request: Request, name: str) -> ModelObject:
    """One model with its card."""
    engine: Engine = request.app.state.engine
    engine.check_open()
    if name not in engine.models:
        raise ModelNotFound(f"model {name[:64]!r} is not served", field="model")
    info, shown = engine.models[name], _object(engine.models[name], request.app.state.completer)
    return shown.model_copy(update={"genserve": {**shown.genserve, **_words(info, request.app.state.service.captions)}})
