"""From logits to tokens: penalties, temperature, top-k, top-p, min-p, and one uniform number a row and step.

Every function treats each row by itself and does no more and no less to a row because of its batch-mates: rows that ask
for the same kind of work are worked on together, and which kind that is follows from a row's own wishes and logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from app.engine.jobs import Sampling

LEAST = -9999.0  # OpenAI's own stand-in for minus infinity, which JSON can't hold
BLOCK = 256  # tokens that are added up together: a running sum over a whole vocabulary takes longer than all the rest
CANDIDATES = (64, 512)  # likeliest tokens among which a filter's end is looked for, before all are sorted

Places = Tensor | slice  # rows of a batch: their indices, or all


@dataclass(frozen=True)
class Group:
    """Rows that are drawn in the same way, and their parameters.

    Attributes:
        places: [G], which rows of the batch.
        temperature: [G, 1], above 0.
        top_k: [G, 1], the vocabulary's size where off.
        top_p: [G, 1], 1 where off.
        min_p: [G, 1], 0 where off.
        floored: whether any row has min-p.
    """

    places: Places
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    floored: bool


@dataclass(frozen=True)
class Rows:
    """The rows of a batch by what drawing a token takes.

    Attributes:
        greedy: rows of temperature 0.
        plain: rows drawn from the whole vocabulary, or what min-p leaves of it.
        filtered: rows with top-k or top-p.
    """

    greedy: Places | None
    plain: Group | None
    filtered: Group | None


@dataclass(frozen=True)
class Penalties:
    """Of rows that have some: [R, 1] each.

    Attributes:
        repetition: 1 where off (Keskar et al. 2019).
        frequency: 0 where off.
        presence: 0 where off.
    """

    repetition: Tensor
    frequency: Tensor
    presence: Tensor


def as_rows(rows: Sequence[Sampling], vocab_size: int, device: torch.device) -> Rows:
    """Sort the rows of a batch by what they ask for."""
    kinds = [_kind(row, vocab_size) for row in rows]
    places = {kind: [place for place, own in enumerate(kinds) if own == kind] for kind in set(kinds)}

    def group(kind: str) -> Group | None:
        chosen = [rows[place] for place in places.get(kind, ())]
        if not chosen:
            return None
        return Group(
            as_places(places[kind], len(rows), device),
            _column([row.temperature for row in chosen], device),
            _column([row.top_k or vocab_size for row in chosen], device, torch.int64),
            _column([row.top_p for row in chosen], device),
            _column([row.min_p for row in chosen], device),
            any(row.min_p for row in chosen),
        )

    greedy = as_places(places["greedy"], len(rows), device) if "greedy" in places else None
    return Rows(greedy, group("plain"), group("filtered"))


def _kind(row: Sampling, vocab_size: int) -> str:
    if row.temperature == 0:
        return "greedy"
    return "filtered" if 0 < row.top_k < vocab_size or row.top_p < 1 else "plain"


def as_places(places: Sequence[int], count: int, device: torch.device) -> Places:
    """Some of `count` rows; all of them as a slice, which copies nothing."""
    return slice(None) if len(places) == count else torch.tensor(places, device=device)


def as_penalties(rows: Sequence[Sampling], device: torch.device) -> Penalties:
    """Gather the penalties of some rows."""
    return Penalties(
        _column([row.repetition_penalty for row in rows], device),
        _column([row.frequency_penalty for row in rows], device),
        _column([row.presence_penalty for row in rows], device),
    )


def _column(values: Sequence[float], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)[:, None]


def penalise(logits: Tensor, penalties: Penalties, prompt: Tensor, generated: Tensor) -> Tensor:
    """Logits with penalties: [R, V], with prompt [R, V] bool and counts of generated tokens [R, V].

    The repetition penalty looks at prompt and output; frequency and presence (OpenAI's) at the output alone.
    """
    seen = prompt | (generated > 0)
    repeated = torch.where(logits > 0, logits / penalties.repetition, logits * penalties.repetition)
    logits = torch.where(seen, repeated, logits)
    return logits - penalties.frequency * generated - penalties.presence * (generated > 0)


def sample(logits: Tensor, rows: Rows, noise: Tensor) -> Tensor:
    """Draw one token a row: logits [R, V], float32, after penalties and bias, noise [R] in [0, 1); tokens [R]."""
    tokens = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    if rows.greedy is not None:
        tokens[rows.greedy] = logits[rows.greedy].max(dim=-1).indices
    if (group := rows.plain) is not None:
        tokens[group.places] = _draw(_probabilities(logits, group), group, noise[group.places])
    if (group := rows.filtered) is not None:
        tokens[group.places] = _draw_filtered(_probabilities(logits, group), group, noise[group.places])
    return tokens


def _probabilities(logits: Tensor, group: Group) -> Tensor:
    """[G, V], before any filter."""
    own = logits[group.places]
    below = own - own.amax(dim=-1, keepdim=True)  # the smallest temperature can't overflow it
    return torch.softmax(below.div_(group.temperature), dim=-1)


def _draw(probabilities: Tensor, group: Group, noise: Tensor) -> Tensor:
    """Draw from what min-p leaves of [G, V], in the vocabulary's order: first a block, then a token of it."""
    kept = probabilities
    if group.floored:
        kept = kept * (kept >= group.min_p * kept.amax(dim=-1, keepdim=True))
    if kept.shape[-1] % BLOCK:
        kept = F.pad(kept, (0, -kept.shape[-1] % BLOCK))
    blocks = kept.reshape(len(kept), -1, BLOCK)
    sums = blocks.sum(dim=-1, dtype=torch.float64)
    cumulative = sums.cumsum(dim=-1)
    aim = noise[:, None] * cumulative[:, -1:]
    block = _first_above(cumulative, aim)
    before = cumulative.gather(-1, block) - sums.gather(-1, block)
    inside = blocks[torch.arange(len(block), device=block.device), block[:, 0]].double().cumsum(dim=-1)
    return (block * BLOCK + _first_above(inside, aim - before))[:, 0]


def _first_above(cumulative: Tensor, aim: Tensor) -> Tensor:
    """Index [G, 1] of the first running sum that is above the aim; of the last that added anything, if none is."""
    above = (cumulative <= aim).sum(dim=-1, keepdim=True)
    return torch.minimum(above, (cumulative < cumulative[:, -1:]).sum(dim=-1, keepdim=True))


def _draw_filtered(probabilities: Tensor, group: Group, noise: Tensor) -> Tensor:
    """Draw from what top-k, top-p and min-p leave of [G, V]."""
    left = torch.arange(len(noise), device=noise.device)
    tokens = torch.zeros_like(left)
    total = probabilities.sum(dim=-1, keepdim=True, dtype=torch.float64)
    for count in CANDIDATES if probabilities.device.type == "cpu" else ():  # looking at the outcome takes a GPU longer
        if not len(left) or count >= probabilities.shape[-1]:
            break
        own = probabilities[left]
        candidates = own.topk(count, dim=-1).indices.sort(dim=-1).values
        drawn, settled = _draw_among(own, candidates, total[left], _of(group, left), noise[left])
        tokens[left[settled]] = drawn[settled]
        left = left[~settled]
    if len(left):
        own, chosen = probabilities[left], _of(group, left)
        tokens[left] = _draw(own * _kept_by_value(own, total[left], chosen), chosen, noise[left])
    return tokens


def _kept_by_value(probabilities: Tensor, total: Tensor, group: Group) -> Tensor:
    """What top-k and top-p keep of [G, V]: all above the least one kept, and of its equals the vocabulary's first."""
    ranked = _descending(probabilities)
    count = _kept_by_rank(ranked, total, group).sum(dim=-1, keepdim=True)
    least = ranked.gather(-1, count - 1)
    above, equal = probabilities > least, probabilities == least
    return above | (equal & (equal.cumsum(dim=-1) <= count - above.sum(dim=-1, keepdim=True)))


def _descending(values: Tensor) -> Tensor:
    """Sorted rows [G, V]; numpy's sort is twenty times faster than torch's on a CPU, which moves indices as well."""
    if values.device.type != "cpu":
        return values.sort(dim=-1, descending=True).values
    return torch.from_numpy(np.sort(values.numpy(), axis=-1)).flip(-1)


def _of(group: Group, rows: Tensor) -> Group:
    """Some rows of a group."""
    temperature, top_k, top_p, min_p = group.temperature[rows], group.top_k[rows], group.top_p[rows], group.min_p[rows]
    return Group(rows, temperature, top_k, top_p, min_p, group.floored)


def _draw_among(
    probabilities: Tensor, candidates: Tensor, total: Tensor, group: Group, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw from the candidates [G, C], ascending; and whether they hold all that the filters keep, [G].

    They do when they end in a token less likely than the last one kept: then its equals are all among them, of which
    the vocabulary's first are kept.
    """
    values = probabilities.gather(-1, candidates)
    ranked, order = values.sort(dim=-1, descending=True, stable=True)
    keep = _kept_by_rank(ranked, total, group)
    least = ranked.masked_fill(~keep, torch.inf).amin(dim=-1)
    counted = (group.top_k <= ranked.shape[-1]) | (group.top_k >= probabilities.shape[-1])
    settled = counted[:, 0] & (least > ranked[:, -1])
    kept = values * torch.zeros_like(keep).scatter(-1, order, keep)
    kept = kept * (kept >= group.min_p * ranked[:, :1])
    cumulative = kept.double().cumsum(dim=-1)  # in the vocabulary's order, so that no sort decides the draw
    drawn = _first_above(cumulative, noise[:, None] * cumulative[:, -1:])
    return candidates.gather(-1, drawn)[:, 0], settled


def _kept_by_rank(ranked: Tensor, total: Tensor, group: Group) -> Tensor:
    """Which of the likeliest top-k (Fan et al. 2018) and top-p (Holtzman et al. 2020) keep; the first always."""
    rank = torch.arange(ranked.shape[-1], device=ranked.device)
    within = ranked.double() * (rank < group.top_k)
    cumulative = within.cumsum(dim=-1)
    mass = torch.where(group.top_k <= ranked.shape[-1], cumulative[:, -1:], total)
    likelier = cumulative - within  # mass of the tokens before this one
    return (rank < group.top_k) & ((likelier < group.top_p * mass) | (group.top_p >= 1) | (rank == 0))


def log_probabilities(logits: Tensor, tokens: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """The network's own log probabilities, before penalties and temperature.

    Returns:
        of the chosen tokens [R], of the likeliest [R, top], and which those are [R, top].
    """
    logp = torch.log_softmax(logits.float(), dim=-1).clamp(min=LEAST)
    best, which = logp.topk(top, dim=-1)
    return logp.gather(-1, tokens[:, None])[:, 0], best, which
