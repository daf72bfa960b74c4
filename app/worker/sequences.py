"""Runs one sequence model on the device: slots, prefill, and several sampled steps for one copy back.

Knows tensors, the model's state and which row counts and spans are exact; holds no policy: who gets a slot and when it
ends is the batcher's business.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.engine.jobs import Logprob, Sampling
from app.worker import sampling
from app.worker.device import tell_apart
from app.worker.runner import ModelFault, powers_of_two
from app.worker.threads import compute_with
from models.protocols import SequenceModel

PREFILL_GRID = 32  # prompts are padded to multiples of this; a prompt's own length alone decides, never its batch-mates
SPAN_GRID = 64  # the shortest prefix that attention is asked to read
PROBE_ROWS = 4
PROBE_STEPS = 3
PROBE_PROMPT = 8

Integers = NDArray[np.int64]
T = TypeVar("T")


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


@dataclass(frozen=True)
class Row:
    """One live row at the start of a tick.

    Attributes:
        token: the last token, not yet read by the network.
        position: where it goes.
        seed: of the row's noise.
        sampling: how to draw.
        forced: tokens that the next steps must give, instead of drawn ones.
    """

    token: int
    position: int
    seed: int
    sampling: Sampling
    forced: tuple[int, ...] = ()


IDLE = Row(0, 0, 0, Sampling(temperature=0.0))


class SequenceRunner:
    """One network with its slots.

    Attributes:
        slots: how many sequences run at once.
        buckets: row counts that give every row the same bits as all slots at once, ascending.
        spans: prefix lengths likewise, ascending; the last is the model's max_length.
        step_seconds: of one step at the largest bucket, measured at warm-up.
        state_bytes: memory behind all slots.
    """

    def __init__(self, model: SequenceModel[Any], device: torch.device, slots: int, threads: int = 1) -> None:
        """Allocate the state of all slots, find the exact row counts and spans, and warm them up.

        `threads` compute one step together, on a CPU.

        Raises:
            ModelFault: the network raises, or its output is not [R, vocab_size].
        """
        self._model, self._device, self._threads = model, device, threads
        compute_with(threads)
        self.slots = slots
        self.vocab_size, self.max_length = model.vocab_size, model.max_length
        self.buckets: tuple[int, ...] = (slots,)
        self.spans: tuple[int, ...] = (model.max_length,)
        try:
            with torch.inference_mode():
                self._allocate()
                self._find_exact()
                self.step_seconds = self._measure()
                self._allocate()
        except (RuntimeError, IndexError, ValueError, TypeError, MemoryError) as error:
            raise ModelFault(f"the warm-up of the sequence model failed: {error}") from error

    def _allocate(self) -> None:
        self._state = self._model.init_state(self.slots)
        self.state_bytes = state_bytes(self._state)
        shape = (self.slots, self.vocab_size)
        self._prompt = torch.zeros(shape, dtype=torch.bool, device=self._device)
        self._generated = torch.zeros(shape, dtype=torch.int32, device=self._device)
        self._bias = torch.zeros(shape, device=self._device)
        self._biased: set[int] = set()

    def bucket_for(self, rows: int) -> int:
        """The smallest exact row count that holds so many rows."""
        return next(size for size in self.buckets if size >= rows)

    def prefill(self, slot: int, prompt: Sequence[int], row: Row) -> Steps:
        """Read `prompt` into a slot and give the token after it; `row` stands at the prompt's last token.

        Raises:
            MemoryError: there was not enough.
            DeviceLost: no call to the device will succeed any more.
            Exception: whatever the network raises.
        """
        return self._on_device(lambda: self._begin(slot, prompt, row))

    def steps(self, live: Sequence[Row], count: int, interrupted: Callable[[], bool]) -> Steps:
        """Advance rows 0..R-1 by `count` steps, or by fewer when interrupted; rows without a sequence are `IDLE`.

        Raises:
            MemoryError, DeviceLost, Exception: as in `prefill`.
        """
        return self._on_device(lambda: self._advance(live, count, interrupted))

    def scrub(self, slot: int) -> None:
        """Overwrite all that the network remembers in a slot.

        Raises:
            MemoryError, DeviceLost, Exception: as in `prefill`.
        """
        self._on_device(lambda: self._prefill(slot, [0] * self.max_length))

    @torch.inference_mode()
    def _on_device(self, compute: Callable[[], T]) -> T:
        compute_with(self._threads)  # of this thread: a worker's others compute pictures
        try:
            return compute()
        except Exception as error:
            tell_apart(error, self._device)
            raise

    def _begin(self, slot: int, prompt: Sequence[int], row: Row) -> Steps:
        self._prepare_slot(slot, [*prompt, *row.forced], row.sampling)
        drawing = self._drawing([row], slot, 1)
        drawing.take(self._prefill(slot, prompt))
        return drawing.finish()

    def _advance(self, live: Sequence[Row], count: int, interrupted: Callable[[], bool]) -> Steps:
        size = self.bucket_for(len(live))
        rows = [*live, *[IDLE] * (size - len(live))]
        reach = min(max(row.position for row in rows) + count, self.max_length)
        span = next(span for span in self.spans if span >= reach)
        tokens = torch.tensor([row.token for row in rows], device=self._device)
        positions = torch.tensor([row.position for row in rows], device=self._device)
        drawing = self._drawing(rows, 0, count)
        for index in range(count):
            tokens = drawing.take(self._model.step(tokens, positions, span, self._state))
            positions = (positions + 1).clamp(max=self.max_length - 1)  # a row may be over before its batch-mates
            if index + 1 < count and interrupted():
                break
        return drawing.finish()

    def _prefill(self, slot: int, prompt: Sequence[int]) -> Tensor:
        length = len(prompt)
        tokens = torch.zeros(1, min(-(-length // PREFILL_GRID) * PREFILL_GRID, self.max_length), dtype=torch.int64)
        tokens[0, :length] = torch.tensor(prompt)
        place, lengths = torch.tensor([slot], device=self._device), torch.tensor([length], device=self._device)
        return self._model.prefill(tokens.to(self._device), lengths, place, self._state)

    def _prepare_slot(self, slot: int, prompt: Sequence[int], chosen: Sampling) -> None:
        """Set up what penalties and bias will read; slots without them leave it as it lies, unread."""
        if chosen.penalised:
            self._prompt[slot] = False
            self._prompt[slot, torch.tensor(prompt, device=self._device)] = True
            self._generated[slot] = 0
        if slot in self._biased:
            self._bias[slot] = 0.0
            self._biased.discard(slot)
        if chosen.bias:
            ids, values = zip(*chosen.bias, strict=True)
            self._bias[slot, torch.tensor(ids, device=self._device)] = torch.tensor(values, device=self._device)
            self._biased.add(slot)

    def _drawing(self, rows: Sequence[Row], first: int, count: int) -> "_Drawing":
        """Gather what a tick of rows `first`, `first + 1`, ... draws with, so that its steps copy nothing."""
        places = slice(first, first + len(rows))
        seeds = np.array([[row.seed] for row in rows], np.uint64)
        starts = np.array([[row.position + 1] for row in rows], np.uint64)
        indices = np.add(starts, np.arange(count, dtype=np.uint64), dtype=np.uint64)
        forced = np.full((len(rows), count), -1, np.int64)
        for index, row in enumerate(rows):
            forced[index, : len(row.forced[:count])] = row.forced[:count]
        wanted = [row.sampling.logprobs for row in rows if row.sampling.logprobs is not None]
        biased = any(first <= slot < first + len(rows) for slot in self._biased)
        return _Drawing(
            wanted=[row.sampling.logprobs for row in rows],
            rows=sampling.as_rows([row.sampling for row in rows], self.vocab_size, self._device),
            noise=torch.from_numpy(sampling.uniforms(seeds, indices)).to(self._device),
            forced=torch.from_numpy(forced).to(self._device),
            bias=self._bias[places] if biased else None,
            prompt=self._prompt[places],
            generated=self._generated[places],
            top=max(wanted) if wanted else None,
        )

    def _find_exact(self) -> None:
        """Keep the row counts and spans that agree bit by bit with all slots at the longest span."""
        longest = self.max_length
        rng = np.random.default_rng(0)
        self._prompts = rng.integers(self.vocab_size, size=(PROBE_ROWS, PROBE_PROMPT + PROBE_STEPS))
        reference = self._probe(self.slots, longest, first=0)
        elsewhere = self._probe(self.slots, longest, first=max(0, self.slots - PROBE_ROWS), backwards=True)
        if not _same(elsewhere, reference):
            self.slots, self.buckets = 1, (1,)  # rows depend on their place: one sequence at a time
            self._allocate()
            return
        for size in reversed(powers_of_two(self.slots)[:-1]):
            if not _same(self._probe(size, longest, first=max(0, size - PROBE_ROWS)), reference):
                break
            self.buckets = (size, *self.buckets)
        for span in reversed(list(_spans(longest))):
            if not all(_same(self._probe(size, span, first=0), reference) for size in {self.buckets[0], self.slots}):
                break
            self.spans = (span, *self.spans)

    def _probe(self, size: int, span: int, *, first: int, backwards: bool = False) -> Tensor:
        """Logits [rows, steps, V] of a few steps on known tokens in a few rows from `first` on; the others are idle."""
        places = range(first, min(first + PROBE_ROWS, size))[:: -1 if backwards else 1]
        for place, prompt in zip(places, self._prompts, strict=False):
            self._prefill(place, prompt[:PROBE_PROMPT].tolist())
        out = []
        for index in range(PROBE_PROMPT, PROBE_PROMPT + PROBE_STEPS):
            tokens, positions = torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.int64)
            tokens[places] = torch.from_numpy(self._prompts[: len(places), index])
            positions[places] = index
            logits = self._model.step(tokens.to(self._device), positions.to(self._device), span, self._state)
            if logits.shape != (size, self.vocab_size):
                raise ModelFault(
                    f"step gives {list(logits.shape)} for {size} rows; [{size}, {self.vocab_size}] expected"
                )
            out.append(logits[places].clone())
        return torch.stack(out, dim=1)

    def _measure(self) -> float:
        """Seconds of one step of all slots: the better of two."""
        took = []
        for _ in range(2):
            start = time.perf_counter()
            self.steps([dataclasses.replace(IDLE, position=PROBE_PROMPT)] * self.slots, 1, lambda: False)
            took.append(time.perf_counter() - start)
        return min(took)


@dataclass
class _Drawing:
    """The sampling of one tick: parameters and noise of its rows, and what has been drawn so far."""

    wanted: list[int | None]
    rows: sampling.Rows
    noise: Tensor
    forced: Tensor
    bias: Tensor | None
    prompt: Tensor
    generated: Tensor
    top: int | None

    def __post_init__(self) -> None:
        self._tokens: list[Tensor] = []
        self._finite: list[Tensor] = []
        self._logprobs: list[tuple[Tensor, Tensor, Tensor]] = []

    def take(self, logits: Tensor) -> Tensor:
        """Draw the next token of every row from logits [R, V]; never waits for the device."""
        index = len(self._tokens)
        adjusted = logits.float()
        if self.bias is not None:
            adjusted = adjusted + self.bias
        if self.rows.penalised:
            adjusted = sampling.penalise(adjusted, self.rows, self.prompt, self.generated)
        drawn, finite = sampling.sample(adjusted, self.rows, self.noise[:, index])
        forced = self.forced[:, index]
        tokens = torch.where(forced >= 0, forced, drawn)
        if self.top is not None:
            self._logprobs.append(sampling.log_probabilities(logits, tokens, self.top))
        if self.rows.penalised:
            places = torch.arange(len(tokens), device=tokens.device)
            self.generated[places, tokens] += (forced < 0).int()
        self._tokens.append(tokens)
        self._finite.append(finite)
        return tokens

    def finish(self) -> Steps:
        """Copy what was drawn to the host."""
        tokens = torch.stack(self._tokens, dim=1).cpu().numpy()
        finite = torch.stack(self._finite, dim=1).all(dim=1).cpu().numpy()
        return Steps(tokens, finite, self._as_logprobs() if self.top is not None else [])

    def _as_logprobs(self) -> list[list[Logprob]]:
        chosen, best, which = (torch.stack(parts, dim=1).tolist() for parts in zip(*self._logprobs, strict=True))
        return [
            [
                Logprob(chosen[row][k], tuple(zip(which[row][k][:top], best[row][k][:top], strict=True)))
                for k in range(len(chosen[row]))
            ]
            if top is not None
            else []
            for row, top in enumerate(self.wanted)
        ]


def _same(logits: Tensor, reference: Tensor) -> bool:
    """Whether the rows that were probed have the bits of the reference."""
    return torch.equal(logits, reference[: len(logits)])


def _spans(max_length: int) -> Iterator[int]:
    """64, 128, 256, ... below the model's max_length."""
    span = SPAN_GRID
    while span < max_length:
        yield span
        span *= 2


def state_bytes(state: object) -> int:
    """Memory of the tensors inside a state."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(state))


def _tensors(state: object) -> Iterator[Tensor]:
    """The tensors inside a state, which is opaque but is made of dataclasses, dicts, lists and tuples."""
    if isinstance(state, Tensor):
        yield state
    elif dataclasses.is_dataclass(state) and not isinstance(state, type):
        for entry in dataclasses.fields(state):
            yield from _tensors(getattr(state, entry.name))
    elif isinstance(state, dict):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, (list, tuple)):
        for value in state:
            yield from _tensors(value)
