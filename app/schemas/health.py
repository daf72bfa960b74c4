"""The answer of the health routes."""

from typing import Literal

from pydantic import BaseModel, Field, StrictBool, StrictStr


class Health(BaseModel):
    """Answer of the health routes."""

    status: Literal["alive", "ready", "loading", "restarting", "unresponsive", "draining", "failed"]
    detail: StrictStr | None = None
    models: dict[str, StrictBool] | None = Field(None, description="whether each model is served")
