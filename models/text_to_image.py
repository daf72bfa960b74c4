"""Pictures from captions: a transformer over the words of a caption and the codes of a picture (Ramesh et al. 2021).

Knows words and codes as numbers; knows neither the tokenizer nor what a code looks like. Guidance without a classifier
(Ho & Salimans 2022) happens here: every slot reads its codes twice, behind its caption and behind none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Cache
from models.decoder import check_sizes
from models.gpt import GPT


@dataclass(frozen=True)
class Guided:
    """What is kept of all slots.

    Attributes:
        cache: of twice as many rows: 2 i stands behind the caption of slot i, 2 i + 1 behind none.
        scales: guidance of each slot, [slots] float32.
    """

    cache: Cache
    scales: Tensor


class TextToImage(GPT):
    """A `ConditionedModel`: the condition of a slot is its guidance scale, one number s.

    Tokens below `num_codes` are codes, the others words. A sequence is a caption of `prompt_tokens` words, padded, then
    the codes of a picture row by row. Logits are u + s (c - u), c those behind the caption and u those behind padding
    alone: 0 leaves the caption out, 1 is the plain network, more draws what the caption says at the cost of variety.
    Beyond 1 only codes are drawn that are plausible behind the caption (Li et al. 2023, arXiv 2210.15097, section 3.2):
    where a picture is known by heart c and u say nearly the same, and what is left of their difference is noise.
    Only codes are ever predicted: the logits of words are minus infinity.
    """

    condition_length = 1

    def __init__(
        self,
        *,
        vocab_size: int,
        num_codes: int = 1024,
        prompt_tokens: int = 16,
        max_length: int = 80,
        width: int = 256,
        layers: int = 6,
        heads: int = 8,
        guidance: float = 1.0,
        plausible: float = 0.0,
    ) -> None:
        """Build the network.

        Args:
            vocab_size: number of codes and words V; the first word is the padding.
            num_codes: of the codebook, K.
            prompt_tokens: words of a caption.
            max_length: positions in a slot: those of a caption and of a picture.
            width: of the residual stream; a multiple of 2 * heads.
            layers: number of blocks.
            heads: attention heads of a block.
            guidance: scale of slots that are told none.
            plausible: share of the likeliest code's probability that a code needs to be drawn under guidance.

        Raises:
            ValueError: a size is no positive number, or one does not fit another.
        """
        check_sizes(num_codes=num_codes, prompt_tokens=prompt_tokens)
        super().__init__(vocab_size=vocab_size, max_length=max_length, width=width, layers=layers, heads=heads)
        if not num_codes < vocab_size:
            raise ValueError(f"vocab_size {vocab_size} leaves no words behind {num_codes} codes")
        if not prompt_tokens < max_length:
            raise ValueError(f"max_length {max_length} leaves no codes behind {prompt_tokens} prompt_tokens")
        if not 0 <= plausible <= 1:
            raise ValueError(f"plausible must be from 0 to 1, got {plausible}")
        self.num_codes, self.prompt_tokens, self.guidance = num_codes, prompt_tokens, float(guidance)
        self.plausible = float(plausible)
        self.places = nn.Embedding(max_length, width)
        self.head = nn.Linear(width, num_codes, bias=False)
        for matrix in (self.places.weight, self.head.weight):
            nn.init.normal_(matrix, std=0.02)

    @property
    def padding(self) -> int:
        """The word that fills a caption up, and that alone is a caption that says nothing."""
        return self.num_codes

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Rotary positions tell how far away a code is; which column it stands in is learnt."""
        embedded: Tensor = self.embedding(tokens) + self.places(positions)
        return embedded

    def init_state(self, slots: int, /) -> Guided:  # type: ignore[override]  # a model's state is its own
        """Allocate two rows of a cache for each slot."""
        scales = torch.full((slots,), self.guidance, device=self.embedding.weight.device)
        return Guided(super().init_state(2 * slots), scales)

    def condition(self, conditions: Tensor, lengths: Sequence[int], slots: Sequence[int], state: Guided, /) -> None:
        """Tell slots their guidance scales, [B, 1]; those of length 0 the network's own."""
        for row, length, slot in zip(conditions, lengths, slots, strict=True):
            state.scales[slot] = row[0] if length else self.guidance

    def prefill(  # type: ignore[override]
        self,
        tokens: Tensor,
        starts: Sequence[int],
        lengths: Sequence[int],
        slots: Sequence[int],
        state: Guided,
        /,
    ) -> Tensor:
        """Read the next piece of each prompt, tokens [B, T], with and without its caption; logits [B, V]."""
        positions = torch.tensor(starts)[:, None] + torch.arange(tokens.shape[1])
        hidden = tokens.masked_fill((positions < self.prompt_tokens).to(tokens.device), self.padding)
        logits = super().prefill(
            torch.stack([tokens, hidden], 1).flatten(0, 1),
            [start for start in starts for _ in range(2)],
            [length for length in lengths for _ in range(2)],
            [2 * slot + twin for slot in slots for twin in range(2)],
            state.cache,
        )
        return self._guided(logits, state.scales[torch.tensor(slots, device=logits.device)])

    def step(self, tokens: Tensor, positions: Tensor, span: int, state: Guided, /) -> Tensor:  # type: ignore[override]
        """Advance rows 0..R-1: tokens [R] at positions [R], each live one < span: logits [R, V]."""
        logits = super().step(tokens.repeat_interleave(2), positions.repeat_interleave(2), span, state.cache)
        return self._guided(logits, state.scales[: len(tokens)])

    def _guided(self, logits: Tensor, scales: Tensor) -> Tensor:
        """Logits of codes [2 B, K], scales [B] -> [B, V] float32."""
        told, untold = logits.float().view(-1, 2, self.num_codes).unbind(1)
        codes = torch.lerp(untold, told, scales[:, None])
        if self.plausible:
            least = told.amax(1, keepdim=True) + math.log(self.plausible)
            codes = codes.masked_fill((told < least) & (scales[:, None] > 1), -torch.inf)
        return F.pad(codes, (0, self.vocab_size - self.num_codes), value=-torch.inf)

    def copy_slot(self, source: int, target: int, length: int, state: Guided, /) -> None:  # type: ignore[override]
        """Make the first `length` positions of slot `target` those of slot `source`; each keeps its guidance."""
        for twin in range(2):
            super().copy_slot(2 * source + twin, 2 * target + twin, length, state.cache)
