"""The two shapes of generator that Genserve can serve, and what one of them may offer besides.

Knows tensors and nothing of files, requests or training. A class that fits one of these protocols is served by adding
one line to `models.LATENT_MODELS` or `models.SEQUENCE_MODELS`.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor

State = TypeVar("State")


@runtime_checkable
class LatentModel(Protocol):
    """Latents to samples in one forward pass: GAN generator, VAE decoder, VQ decoder.

    Attributes:
        latent_shape: shape of one latent, without the batch dimension.
        num_classes: number of class labels; 0 means unconditional (labels are then ignored).
    """

    latent_shape: tuple[int, ...]
    num_classes: int

    def decode(self, latents: Tensor, labels: Tensor, /) -> Tensor:
        """Turn latents into pictures; called from several threads at once on a CPU, so it must keep no state.

        Args:
            latents: [N, *latent_shape], floating point.
            labels: [N], int64 in [0, num_classes).

        Returns:
            [N, C, H, W] in [-1, 1], C one of 1 (grey), 3 (RGB) or 4 (RGBA). Row i depends on row i alone.
        """
        ...


@runtime_checkable
class EncodingModel(LatentModel, Protocol):
    """A latent model that can also go back from pictures to latents."""

    def encode(self, samples: Tensor, labels: Tensor, /) -> Tensor:
        """Turn pictures into latents that `decode` takes; called and bound like `decode`, but always in float32.

        Args:
            samples: [N, C, H, W] in [-1, 1], of the size and channels that `decode` gives.
            labels: [N], int64 in [0, num_classes).

        Returns:
            [N, *latent_shape], floating point. Row i depends on row i alone.
        """
        ...


@runtime_checkable
class StyledModel(LatentModel, Protocol):
    """A style-based generator (Karras et al. 2019): a latent has a row for each resolution, coarse to fine.

    `latent_shape` is (styles, dim). The rows of an ordinary picture are equal and of root-mean-square length 1; shorter
    ones draw it in to the mean picture (truncation); rows of two latents mix their styles. `decode` reads the direction
    of a row apart from its length, and takes rows of length 0.

    Attributes:
        styles: number of rows, from 2 to 64.
    """

    styles: int


@runtime_checkable
class CodeModel(LatentModel, Protocol):
    """The decoder of a vector-quantised autoencoder: latents are numbers of codes, as floats.

    `decode` rounds and clamps them. Noise makes no picture: a sequence model writes the codes.

    Attributes:
        num_codes: numbers from 0 up to this one, not included, are codes.
    """

    num_codes: int


@runtime_checkable
class SequenceModel(Protocol[State]):
    """Autoregressive network over one vocabulary; row i of the state is slot i.

    Attributes:
        vocab_size: number of tokens V.
        max_length: positions in a slot, prompt included.
    """

    vocab_size: int
    max_length: int

    def init_state(self, slots: int, /) -> State:
        """Allocate the state of all slots, once; opaque to the engine."""
        ...

    def prefill(
        self,
        tokens: Tensor,
        starts: Sequence[int],
        lengths: Sequence[int],
        slots: Sequence[int],
        state: State,
        /,
    ) -> Tensor:
        """Read the next piece of each prompt: tokens [B, T], right-padded, lengths [B], into slots [B].

        Row i stands at positions starts[i] and on: 0 begins a sequence anew, any other goes on where the piece before
        it ended. What becomes of a row depends on its own pieces alone. Logits after each piece, [B, V].
        """
        ...

    def step(self, tokens: Tensor, positions: Tensor, span: int, state: State, /) -> Tensor:
        """Advance rows 0..R-1 by one token [R] at positions [R], each live one < span; logits [R, V]."""
        ...


@runtime_checkable
class PrefixModel(SequenceModel[State], Protocol[State]):
    """A sequence model that keeps what it read by position, so that a slot can take over another one's beginning."""

    def copy_slot(self, source: int, target: int, length: int, state: State, /) -> None:
        """Make the first `length` positions of slot `target` those of slot `source`, bit by bit."""
        ...


@runtime_checkable
class ConditionedModel(SequenceModel[State], Protocol[State]):
    """A sequence model that is told numbers besides tokens: what to say, how long, how closely to follow the prompt.

    Attributes:
        condition_length: most numbers that a sequence may be told.
    """

    condition_length: int

    def condition(self, conditions: Tensor, lengths: Sequence[int], slots: Sequence[int], state: State, /) -> None:
        """Tell slots [B] their numbers, before the first piece of their prompts: conditions [B, L], lengths [B].

        Float32, right-padded with zeros, L at most `condition_length`. Row i depends on row i alone. A length of 0 is
        the model's default; a slot that was never told anything behaves so too.
        """
        ...
