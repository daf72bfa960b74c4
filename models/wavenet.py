"""WaveNet (van den Oord et al. 2016): dilated causal convolutions over the samples of speech, told what to say.

Knows samples as tokens and a transcript as its condition; knows no files, no sampling and no scheduling. Gates are
linear ones (Dauphin et al. 2017): as good, and half as many operations. Stepwise generation keeps what each layer will
need again in ring buffers (Fast WaveNet, Le Paine et al. 2016), so that a sample costs one product a layer.
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
    """

    inputs: Tensor
    frames: Tensor
    ends: Tensor
    turned: Tensor
    told: Tensor

    def rows(self, first: int, end: int) -> "Rings":
        """Some slots of it, the same memory."""
        own = self.inputs[first:end], self.frames[first:end], self.ends[first:end], self.turned[first:end]
        return Rings(*own, self.told[:, first:end])


class WaveNet(nn.Module):
    """Speech, sample by sample; a `ConditionedModel`.

    A condition is the number of samples of the clip, then its characters, numbered from 1. Position p, which holds
    the sample before, predicts sample p of the clip; it is told what is said in frame p // hop.
    """

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
        self.dilations = [2**layer for layer in range(layers)] * stacks
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
        self.register_buffer("_offsets", dilations.cumsum(0) - dilations, persistent=False)
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
        told = self.tell(frames).unflatten(1, (len(self.dilations), 1, -1))
        for layer, dilation in enumerate(self.dilations):
            x = x.to(told.dtype)
            gates = torch.cat([_delayed(x, dilation, lengths), x], 1) @ self.gates[layer]
            z = F.glu((gates.unflatten(0, (-1, self.hop)) + told[:, layer]).flatten(0, 1))
            said.append(z)
            x = x + z @ self.residuals[layer] if layer < len(self.residuals) else x
        return self._logits(torch.cat(said, 1))

    def _logits(self, said: Tensor) -> Tensor:
        """What all layers say, [N, layers * width] -> [N, V]."""
        logits: Tensor = self.out(F.relu(self.hidden(F.relu(self.skip(said)))))
        return logits

    def init_state(self, slots: int, /) -> Rings:
        """Allocate what all slots remember, on the network's device and in its dtype."""
        like = self.samples.weight
        frames = -(-self.max_length // self.hop)
        return Rings(
            like.new_zeros(slots, sum(self.dilations), self.width),
            like.new_zeros(slots, frames, self.tell.in_features),
            torch.zeros(slots, dtype=torch.int64, device=like.device),
            torch.full((slots,), -1, dtype=torch.int64, device=like.device),
            like.new_zeros(len(self.dilations), slots, 2 * self.width),
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
        """One sample in each of these rows: tokens [R] at positions [R]: logits [R, V]."""
        self._turn(positions, rows)
        memory = rows.inputs.view(-1, self.width)
        first = torch.arange(len(tokens), device=tokens.device)[:, None] * rows.inputs.shape[1]
        places = (positions[:, None] % self._dilations + self._offsets + first).T  # [layers, R]
        gates = torch.baddbmm(rows.told, memory[places], self.gates[:, : self.width])
        x, heard, said = self.samples(tokens), [], []
        for layer, new in enumerate(self.gates[:, self.width :]):
            heard.append(x)
            z = F.glu(torch.addmm(gates[layer], x, new))
            said.append(z)
            x = torch.addmm(x, z, self.residuals[layer]) if layer < len(self.residuals) else x
        memory[places] = torch.stack(heard)
        return self._logits(torch.cat(said, 1))

    def _turn(self, positions: Tensor, rows: Rings) -> None:
        """See to it that `told` is of the frames in which these positions are; most are where they were."""
        frames = torch.minimum(positions // self.hop, rows.ends)
        if torch.equal(frames, rows.turned):
            return
        told = self.tell(rows.frames[torch.arange(len(frames), device=frames.device), frames])
        rows.told.copy_(told.unflatten(1, (len(self.dilations), -1)).transpose(0, 1))
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
