"""The sampling of one tick: what its rows draw with, and what they have drawn so far.

Rows that take the likeliest token as it is cost one look at the logits, in their own precision; only the others are
copied, adjusted and drawn from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.engine.jobs import Logprob
from app.worker import sampling
from app.worker.adjustments import Adjustments
from app.worker.noise import uniforms
from app.worker.row import Row
from app.worker.tally import Tally

TOP = 20  # likeliest tokens that a row may ask for; so many are looked up for one or for all, as equals have no order

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Steps:
    """What a few steps of rows 0..R-1 gave, after one copy.

    Attributes:
        tokens: [R, k].
        finite: [R], whether every distribution of the row was finite.
        logprobs: [R][k] when any row asked for them, else empty.
    """

    tokens: Integers
    finite: NDArray[np.bool_]
    logprobs: list[list[Logprob]]


NOTHING = Steps(np.empty((0, 1), np.int64), np.empty(0, np.bool_), [])


class Drawing:
    """Rows 0..R-1 over a few steps; a row that is None is idle, and whatever it gives means nothing."""

    def __init__(
        self, rows: Sequence[Row | None], slots: Sequence[int], count: int, tally: Tally, device: torch.device
    ) -> None:
        """Prepare `count` steps of rows that stand in these slots."""
        self._wanted = [None if row is None else row.sampling.logprobs for row in rows]
        scored = [place for place, wanted in enumerate(self._wanted) if wanted is not None]
        self._scored = torch.tensor(scored, device=device) if scored else None
        self._top = min(TOP, tally.bias.shape[1]) if any(self._wanted) else 0
        self._forced = _forced(rows, count, device)
        own = [(place, row) for place, row in enumerate(rows) if row is not None and not row.likeliest]
        self._own = sampling.as_places([place for place, _ in own], len(rows), device) if own else None
        if own:
            chosen, places = [row for _, row in own], [slots[place] for place, _ in own]
            self._rows = sampling.as_rows([row.sampling for row in chosen], tally.bias.shape[1], device)
            self._noise = torch.from_numpy(_noise(chosen, count)).to(device)
            self._adjustments = Adjustments(chosen, places, count, tally, device)
        self._tokens: list[Tensor] = []
        self._finite: list[Tensor] = []
        self._logprobs: list[tuple[Tensor, Tensor, Tensor]] = []

    def take(self, logits: Tensor) -> Tensor:
        """Give the next token of every row, from logits [R, V]; on a GPU it never waits for the device."""
        step = len(self._tokens)
        peaks, tokens = logits.max(dim=-1)  # of what is no number, no number
        if self._own is not None:
            adjusted = self._adjustments.adjust(logits[self._own].to(torch.float32, copy=True), step)
            tokens[self._own] = sampling.sample(adjusted, self._rows, self._noise[:, step])
        drawn = torch.ones_like(tokens, dtype=torch.bool)
        if self._forced is not None:
            drawn = self._forced[:, step] < 0
            tokens = torch.where(drawn, tokens, self._forced[:, step])
        if self._own is not None:
            self._adjustments.count(tokens[self._own], drawn[self._own])
        if self._scored is not None:
            own = logits[self._scored], tokens[self._scored]
            self._logprobs.append(sampling.log_probabilities(*own, self._top))
        self._tokens.append(tokens)
        self._finite.append(torch.isfinite(peaks))
        return tokens

    def finish(self) -> Steps:
        """Copy what was drawn to the host."""
        tokens = torch.stack(self._tokens, dim=1).cpu().numpy()
        finite = torch.stack(self._finite, dim=1).all(dim=1).cpu().numpy()
        return Steps(tokens, finite, self._as_logprobs() if self._scored is not None else [])

    def _as_logprobs(self) -> list[list[Logprob]]:
        chosen, best, which = (torch.stack(parts, dim=1).tolist() for parts in zip(*self._logprobs, strict=True))
        scored = iter(range(len(chosen)))
        return [
            [] if top is None else _of_row(chosen[place := next(scored)], best[place], which[place], top)
            for top in self._wanted
        ]


def _of_row(chosen: list[float], best: list[list[float]], which: list[list[int]], top: int) -> list[Logprob]:
    """The log probabilities of one row's steps, with as many of the likeliest tokens as it asked for."""
    return [
        Logprob(own, tuple(zip(ids[:top], values[:top], strict=True)))
        for own, values, ids in zip(chosen, best, which, strict=True)
    ]


def _forced(rows: Sequence[Row | None], count: int, device: torch.device) -> Tensor | None:
    """Tokens that must come, [R, count], -1 where any may; None when no row has one."""
    if not any(row is not None and row.forced for row in rows):
        return None
    forced = np.full((len(rows), count), -1, np.int64)
    for place, row in enumerate(rows):
        if row is not None:
            forced[place, : len(row.forced[:count])] = row.forced[:count]
    return torch.from_numpy(forced).to(device)


def _noise(rows: Sequence[Row], count: int) -> NDArray[np.float64]:
    """One number a row and step, [R, count]."""
    seeds = np.array([[row.seed] for row in rows], np.uint64)
    starts = np.array([[row.position + 1] for row in rows], np.uint64)
    return uniforms(seeds, np.add(starts, np.arange(count, dtype=np.uint64), dtype=np.uint64))
