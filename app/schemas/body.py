"""The base of all request bodies, and what several of them hold."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

from app.latents import MAX_SEED

Seed = Annotated[int, Strict(), Field(ge=0, le=MAX_SEED)]
Name = Annotated[str, Strict(), Field(min_length=1, max_length=64)]


class Body(BaseModel):
    """Base of all request bodies: unknown fields, NaN and infinity are errors; null is as good as left out.

    Attributes:
        names: of the fields, as clients write them.
    """

    names: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        names = cls.names
        known = {name: value for name, value in data.items() if value is not None and name in names}
        stranger = next((name for name in data if name not in names), None)
        return known if stranger is None else {**known, stranger: data[stranger]}  # one is enough to refuse

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls.names = frozenset(field.alias or name for name, field in cls.model_fields.items())
