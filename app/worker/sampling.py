"""From logits to tokens: penalties, temperature, top-k, top-p, min-p, and one uniform number a row and step.

Every function treats each row by itself and does no more and no less to a row because of its batch-mates: a filter that
no row of a batch asks for is skipped, and skipping it leaves the other rows' bits as they were.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.engine.jobs import Sampling

LEAST = -9999.0  # OpenAI's own stand-in for minus infinity, which JSON can't hold
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seeds: NDArray[np.uint64], positions: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Counter-based noise in [0, 1): a function of seed and position alone (SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2 ** 64 is the point
        mixed = _mix(_mix(seeds + GOLDEN) + positions * GOLDEN)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Rows:
    """The sampling parameters of rows 0..R-1 as tensors, and which steps any of them needs.

    Attributes:
        temperature: [R, 1], 0 for greedy rows.
        top_k: [R, 1], the vocabulary's size where off.
        top_p: [R, 1], 1 where off.
        min_p: [R, 1], 0 where off.
        repetition: [R, 1], 1 where off (Keskar et al. 2019).
        frequency: [R, 1], 0 where off.
        presence: [R, 1], 0 where off.
        penalised: whether any row has a penalty.
        sorted: whether any row has top-k or top-p.
        floored: whether any row has min-p.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    repetition: Tensor
    frequency: Tensor
    presence: Tensor
    penalised: bool
    sorted: bool
    floored: bool


def as_rows(rows: Sequence[Sampling], vocab_size: int, device: torch.device) -> Rows:
    """Gather the parameters of a batch."""

    def column(values: list[float], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)[:, None]

    return Rows(
        temperature=column([row.temperature for row in rows]),
        top_k=column([row.top_k or vocab_size for row in rows], torch.int64),
        top_p=column([row.top_p for row in rows]),
        min_p=column([row.min_p for row in rows]),
        repetition=column([row.repetition_penalty for row in rows]),
        frequency=column([row.frequency_penalty for row in rows]),
        presence=column([row.presence_penalty for row in rows]),
        penalised=any(row.penalised for row in rows),
        sorted=any(row.top_k or row.top_p < 1 for row in rows),
        floored=any(row.min_p for row in rows),
    )


def penalise(logits: Tensor, rows: Rows, prompt: Tensor, generated: Tensor) -> Tensor:
    """Logits with penalties: [R, V], with prompt [R, V] bool and counts of generated tokens [R, V].

    The repetition penalty looks at prompt and output; frequency and presence (OpenAI's) at the output alone.
    """
    seen = prompt | (generated > 0)
    repeated = torch.where(logits > 0, logits / rows.repetition, logits * rows.repetition)
    logits = torch.where(seen, repeated, logits)
    return logits - rows.frequency * generated - rows.presence * (generated > 0)


def sample(logits: Tensor, rows: Rows, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token a row: logits [R, V] after penalties and bias, noise [R] in [0, 1).

    Returns:
        tokens [R], int64, and whether each row's distribution was finite, [R] bool.
    """
    greedy = rows.temperature == 0
    below = logits.float() - logits.float().amax(dim=-1, keepdim=True)  # the smallest temperature can't overflow it
    scaled = below / torch.where(greedy, 1.0, rows.temperature)
    probabilities = torch.softmax(scaled, dim=-1)
    if rows.sorted:
        probabilities = probabilities * _kept_by_rank(probabilities, rows)
    if rows.floored:
        peak = probabilities.amax(dim=-1, keepdim=True)
        probabilities = probabilities * (probabilities >= rows.min_p * peak)
    cumulative = probabilities.double().cumsum(dim=-1)  # in the vocabulary's order, so that no sort decides the draw
    total = cumulative[:, -1:]
    drawn = (cumulative <= noise[:, None] * total).sum(dim=-1).clamp(max=logits.shape[-1] - 1)
    tokens = torch.where(greedy[:, 0], logits.argmax(dim=-1), drawn)
    return tokens, torch.isfinite(total[:, 0])


def _kept_by_rank(probabilities: Tensor, rows: Rows) -> Tensor:
    """Which tokens top-k (Fan et al. 2018) and top-p (Holtzman et al. 2020) keep, [R, V]; the likeliest always."""
    ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(ranked.shape[-1], device=ranked.device)
    within = ranked.double() * (rank < rows.top_k)
    cumulative = within.cumsum(dim=-1)
    likelier = cumulative - within  # mass of the tokens before this one
    keep = (rank < rows.top_k) & ((likelier < rows.top_p * cumulative[:, -1:]) | (rank == 0))
    off = (rows.top_k >= ranked.shape[-1]) & (rows.top_p >= 1)  # rounding must not cost such a row its tail
    return torch.zeros_like(keep).scatter(-1, order, keep | off)


def log_probabilities(logits: Tensor, tokens: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """The network's own log probabilities, before penalties and temperature.

    Returns:
        of the chosen tokens [R], of the likeliest [R, top], and which those are [R, top].
    """
    logp = torch.log_softmax(logits.float(), dim=-1).clamp(min=LEAST)
    best, which = logp.topk(top, dim=-1)
    return logp.gather(-1, tokens[:, None])[:, 0], best, which
