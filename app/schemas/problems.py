"""Errors, natively and in OpenAI's shape."""

from pydantic import BaseModel


class Problem(BaseModel):
    """An error of a native route (RFC 9457)."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    field: str | None = None
    request_id: str | None = None


class OpenAIErrorDetail(BaseModel):
    """The inside of `OpenAIError`."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(BaseModel):
    """An error of an OpenAI-compatible route."""

    error: OpenAIErrorDetail
