"""Answers of the routes that list models."""

from typing import Any, Literal

from pydantic import BaseModel


class ModelObject(BaseModel):
    """One model in OpenAI's shape, with its card under `genserve`."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["genserve"] = "genserve"
    genserve: dict[str, Any]


class ModelList(BaseModel):
    """All models in OpenAI's shape."""

    object: Literal["list"] = "list"
    data: list[ModelObject]
