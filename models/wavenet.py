"""WaveNet (van den Oord et al. 2016): dilated causal convolutions over the samples of speech, told what to say.

Knows samples as tokens and a transcript as its condition; knows no files, no sampling and no scheduling. Gates are
linear units (Dauphin et al. 2017), one operation instead of the paper's four. Stepwise generation keeps what each layer
will need again in ring buffers (Fast WaveNet, Le Paine et al. 2016), so that a sample costs two products a layer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.decoder import check_sizes
from models.transcript import Transcript

MAX_LENGTH = 1 << 20
MAX_LAYERS = 16  # of a stack: a dilation of 32,768 samples


@dataclass(frozen=True)
class Rings:
    """What all slots remember, allocated once.

    Attributes:
        inputs: of every layer, as far back as it looks: [slots, reach, width]. Layer l has its own part, as long as its
            dilation, in which position p stands at p modulo the dilation.
        frames: what is said when, [slots, frames, features].
        ends: the last frame of each slot's clip, [slots].
        turned: the frame whose projections are in `told`, [slots]; -1 for none.
        told: what the frame at hand adds to each layer's gates, [layers, slots, 2 * width].
        corners: where each layer's part of each slot begins, counted in rows of `inputs`, [layers, slots].
    """

    inputs: Tensor
    frames: Tensor
    ends: Tensor
    turned: Tensor
    told: Tensor
    corners: Tensor

    def rows(self, first: int, end: int) -> "Rings":
        """Some slots of it, the same memory."""
        own = self.inputs[first:end], self.frames[first:end], self.ends[first:end], self.turned[first:end]
        return Rings(*own, self.told[:, first:end], self.corners[:, : end - first])


class WaveNet(nn.Module):
    """Speech, sample by sample; a `ConditionedModel`.

    A condition is the number of samples of the clip, then its characters, numbered from 1. Position p, which holds
    the sample before, predicts sample p of the clip; it is told what is said in frame p // hop.
    """

    _dilations: Tensor

    def __init__(
        self,
        *,
        vocab_size: int = 256,
        max_length: int = 240_000,
        width: int = 64,
        skip: int = 128,
        stacks: int = 3,
        layers: int = 9,
        hop: int = 80,
        characters: int = 28,
        condition_length: int = 512,
        text_width: int = 96,
        features: int = 64,
    ) -> None:
        """Build the network.

        Args:
            vocab_size: number of codes that a sample may have.
            max_length: positions in a slot, prompt included.
            width: numbers that go from layer to layer, one of the paper's residual channels each.
            skip: numbers that all layers together say.
            stacks: how often dilations begin at 1 again.
            layers: of a stack; dilations double from each to the next.
            hop: samples of a frame.
            characters: that a transcript may consist of.
            condition_length: most numbers of a condition.
            text_width: of a character's vector.
            features: of a frame's vector.

        Raises:
            ValueError: a size is not positive, or larger than anybody needs.
        """
        super().__init__()
        check_sizes(vocab_size=vocab_size, max_length=max_length, width=width, skip=skip, stacks=stacks, layers=layers)
        check_sizes(hop=hop, characters=characters, condition_length=condition_length, text_width=text_width)
        check_sizes(features=features)
        if max_length > MAX_LENGTH or layers > MAX_LAYERS:
            raise ValueError(f"max_length {max_length} or layers {layers} is over {MAX_LENGTH} or {MAX_LAYERS}")
        self.vocab_size, self.max_length, self.condition_length = vocab_size, max_length, condition_length
        self.width, self.hop = width, hop
        self.dilations = [1 << layer for layer in range(layers)] * stacks
        depth = len(self.dilations)
        self.samples = nn.Embedding(vocab_size, width)
        self.transcript = Transcript(characters=characters, width=text_width, features=features)
        self.tell = nn.Linear(features, depth * 2 * width)
        self.gates = nn.Parameter(torch.empty(depth, 2 * width, 2 * width))  # rows: old tap, new tap; columns: gates
        self.residuals = nn.Parameter(torch.empty(depth - 1, width, width))
        self.skip = nn.Linear(depth * width, skip)
        self.hidden = nn.Linear(skip, skip)
        self.out = nn.Linear(skip, vocab_size)
        dilations = torch.tensor(self.dilations)
        self.register_buffer("_dilations", dilations, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.gates, std=(2 * self.width) ** -0.5)
        nn.init.normal_(self.residuals, std=(self.width * len(self.dilations)) ** -0.5)
        # What the network is told must not drown what it hears before it has learnt to listen.
        nn.init.normal_(self.tell.weight, std=0.02)
        nn.init.zeros_(self.tell.bias)
        with torch.no_grad():
            self.samples.weight.copy_(_waves(self.vocab_size, self.width))

    @property
    def receptive_field(self) -> int:
        """Samples that a prediction depends on."""
        return sum(self.dilations) + 1

    def forward(self, tokens: Tensor, lengths: Sequence[int], frames: Tensor) -> Tensor:
        """Logits after every position of pieces of clips, without a memory; for training and measuring.

        Args:
            tokens: [N], the pieces one after another. Each begins a memory anew.
            lengths: of the pieces, whole frames.
            frames: what is said in each of them, [N / hop, features].

        Returns:
            [N, V].

        Raises:
            ValueError: the lengths are no whole frames, or not those of the tokens and frames.
        """
        if any(length % self.hop for length in lengths) or not sum(lengths) == len(tokens) == len(frames) * self.hop:
            raise ValueError(f"pieces of {list(lengths)} samples are not {len(frames)} frames of {self.hop}")
        x, said = self.samples(tokens), []
        told = self.tell(frames).view(len(frames), len(self.dilations), 1, 2 * self.width)
        for layer, dilation in enumerate(self.dilations):
            x = x.to(told.dtype)
            gates = torch.cat([_delayed(x, dilation, lengths), x], 1) @ self.gates[layer]
            z = F.glu(gates.view(len(frames), self.hop, -1) + told[:, layer]).flatten(0, 1)
            said.append(z)
            x = x + z @ self.residuals[layer] if layer < len(self.residuals) else x
        return self._logits(torch.cat(said, 1))

    def _logits(self, said: Tensor) -> Tensor:
        """What all layers say, [N, layers * width] -> [N, V]."""
        logits: Tensor = self.out(F.relu(self.hidden(F.relu(self.skip(said)))))
        return logits

    def init_state(self, slots: int, /) -> Rings:
        """Allocate what all slots remember, on the network's device and in its dtype."""
        like, reach = self.samples.weight, sum(self.dilations)
        frames = -(-self.max_length // self.hop)
        firsts = torch.arange(slots, device=like.device) * reach
        return Rings(
            like.new_zeros(slots, reach, self.width),
            like.new_zeros(slots, frames, self.tell.in_features),
            torch.zeros(slots, dtype=torch.int64, device=like.device),
            torch.full((slots,), -1, dtype=torch.int64, device=like.device),
            like.new_zeros(len(self.dilations), slots, 2 * self.width),
            (self._dilations.cumsum(0) - self._dilations)[:, None] + firsts,
        )

    def condition(self, conditions: Tensor, lengths: Sequence[int], slots: Sequence[int], state: Rings, /) -> None:
        """Tell slots [B] what to say: conditions [B, L], lengths [B]; each clip's frames are found once, here."""
        for numbers, length, slot in zip(conditions, lengths, slots, strict=True):
            state.turned[slot] = -1
            state.ends[slot] = 0
            state.frames[slot, 0] = 0
            if length:
                frames = self._frames(numbers[:length])
                state.frames[slot, : len(frames)] = frames
                state.ends[slot] = len(frames) - 1

    def _frames(self, numbers: Tensor) -> Tensor:
        """What is said when, [frames, features], by a condition [1 + characters]."""
        samples = min(max(1, int(numbers[0])), self.max_length)
        characters = numbers[1:].long().clamp(0, self.transcript.embedding.num_embeddings - 1)
        frames: Tensor = self.transcript(characters, -(-samples // self.hop))
        return frames

    def prefill(
        self,
        tokens: Tensor,
        starts: Sequence[int],
        lengths: Sequence[int],
        slots: Sequence[int],
        state: Rings,
        /,
    ) -> Tensor:
        """Read the next piece of each prompt, tokens [B, T], into its slot: logits after each piece, [B, V].

        Sample by sample and row by row: prompts are a sample long.
        """
        return torch.cat([self._read(*row, state) for row in zip(tokens, starts, lengths, slots, strict=True)])

    def _read(self, tokens: Tensor, start: int, length: int, slot: int, state: Rings) -> Tensor:
        row = state.rows(slot, slot + 1)
        if start == 0:
            row.inputs.zero_()
        for position in range(start, start + length):
            logits = self._advance(tokens[position - start, None], self._dilations.new_tensor([position]), row)
        row.turned.fill_(-1)  # the products of a step's rows are others than those of one alone
        return logits

    def step(self, tokens: Tensor, positions: Tensor, _span: int, state: Rings, /) -> Tensor:
        """Advance rows 0..R-1 by one sample: tokens [R] at positions [R]: logits [R, V]."""
        return self._advance(tokens, positions, state.rows(0, len(tokens)))

    def _advance(self, tokens: Tensor, positions: Tensor, rows: Rings) -> Tensor:
        """One sample in each of these rows: tokens [R] at positions [R]: logits [R, V].

        What a layer heard long ago and what it hears now stand side by side, so that its gates are one product.
        """
        self._turn(positions, rows)
        memory, width = rows.inputs.view(-1, self.width), self.width
        places = positions % self._dilations[:, None] + rows.corners  # [layers, R]
        taps = memory.new_empty(*places.shape, 2 * width)
        taps[:, :, :width] = memory[places]
        taps[0, :, width:] = self.samples(tokens)
        heard, residuals, said = taps[:, :, width:].unbind(), self.residuals.unbind(), []
        layers = zip(rows.told.unbind(), taps.unbind(), self.gates.unbind(), strict=True)
        for layer, (told, both, gates) in enumerate(layers):
            said.append(F.glu(torch.addmm(told, both, gates)))
            if layer < len(residuals):
                torch.addmm(heard[layer], said[-1], residuals[layer], out=heard[layer + 1])
        memory[places] = taps[:, :, width:]
        return self._logits(torch.cat(said, 1))

    def _turn(self, positions: Tensor, rows: Rings) -> None:
        """See to it that `told` is of the frames in which these positions are; most are where they were."""
        frames = torch.minimum(positions // self.hop, rows.ends)
        if torch.equal(frames, rows.turned):
            return
        told = self.tell(rows.frames[torch.arange(len(frames), device=frames.device), frames])
        rows.told.copy_(told.view(len(frames), len(self.dilations), -1).transpose(0, 1))
        rows.turned.copy_(frames)


def _waves(codes: int, width: int) -> Tensor:
    """Vectors of codes to begin with, [codes, width]: sines of all lengths, so that codes near each other are alike."""
    lengths = torch.logspace(0, math.log10(codes / 4), width) * math.pi / codes
    return math.sqrt(2) * torch.sin(torch.arange(codes)[:, None] * lengths + 2 * math.pi * torch.rand(width))


def _delayed(x: Tensor, dilation: int, lengths: Sequence[int]) -> Tensor:
    """Each piece of x [N, W] that much later, silence before it."""
    parts: list[Tensor] = []
    for piece in torch.split(x, list(lengths)):
        late = min(dilation, len(piece))
        parts += [x.new_zeros(late, x.shape[1]), piece[: len(piece) - late]]
    return torch.cat(parts)
