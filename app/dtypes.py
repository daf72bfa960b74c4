"""Which precision each model is served in, as an operator says it: `auto,smollm2=int4`.

Knows names and words; knows no model and no arithmetic.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Dtype = Literal["auto", "fp32", "bf16", "int8", "int4"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)


@dataclass(frozen=True)
class Dtypes:
    """A precision for all models, and others for some.

    Attributes:
        default: of a model without one of its own.
        named: of single models, by name.
    """

    default: Dtype = "auto"
    named: Mapping[str, Dtype] = field(default_factory=dict)

    def of(self, name: str) -> Dtype:
        """The precision of a model of this name."""
        return self.named.get(name, self.default)


def parse(text: str) -> Dtypes:
    """Read a list with commas of at most one precision for all, and of NAME=PRECISION.

    Raises:
        ValueError: a part is neither, or something is said twice; the message names the part.
    """
    default: Dtype | None = None
    named: dict[str, Dtype] = {}
    for part in (part.strip() for part in text.split(",")):
        name, equals, word = (piece.strip() for piece in part.rpartition("="))
        if word not in DTYPES or (equals and not name):
            raise ValueError(f"{part!r} is neither a precision ({', '.join(DTYPES)}) nor NAME=PRECISION")
        if name in named or (not name and default):
            raise ValueError(f"{part!r}: a precision of {name or 'all models'} was given before")
        if name:
            named[name] = word
        else:
            default = word
    return Dtypes(default or "auto", named)
