"""What an import reads, whatever kind of file it comes from: tensors, a description of the network, the text side.

Knows the terms of Hugging Face's folders, in which all sources speak: names and layouts of tensors, fields of a config.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor


class Tensors(Protocol):
    """The tensors of a source, none of them read before it is asked for."""

    def names(self) -> Iterable[str]:
        """Of all tensors."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor."""
        ...

    def read(self, name: str) -> Tensor:
        """One tensor on the CPU: float32, float16 or bfloat16.

        Raises:
            TrainingError: its numbers can't be read.
        """
        ...


@dataclass(frozen=True)
class Text:
    """The text side of a language model.

    Attributes:
        tokenizer: content of a tokenizer.json.
        eos: the token that ends a text; None when there is none.
        stops: further tokens that end a text.
        starts: what a prompt begins with.
        template: the chat template; None for a model that does not chat.
    """

    tokenizer: bytes
    eos: int | None = None
    stops: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()
    template: str | None = None


@dataclass(frozen=True)
class Source:
    """Everything that an import needs.

    Attributes:
        config: fields of Hugging Face's config.json.
        tensors: in Hugging Face's names and layouts.
        text: tokenizer and what belongs to it.
        card: what the source says of itself, for the model card.
    """

    config: Mapping[str, Any]
    tensors: Tensors
    text: Text
    card: Mapping[str, Any] = field(default_factory=dict)
