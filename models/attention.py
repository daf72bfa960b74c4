"""Attention with a cache, over whole texts, pieces of prompts and single steps; rotary positions.

Knows heads, positions and the memory behind a slot; knows nothing of blocks, norms or vocabularies. Heads share keys as
in grouped-query attention (Ainslie et al. 2023); a model without it has as many key heads as query heads.

What a network projects comes as one tensor, [..., queries + 2 * keys, dim]: query heads first, then keys, then values.
"""

import math
import mmap
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_LENGTH = 1 << 20
MAX_TABLE = 1 << 26  # positions times features of a head: tables of angles take memory beside the parameters

Rotation = tuple[Tensor, Tensor]  # cosines and signed sines, [N, total, dim] each; of values, which stay, 1 and 0


@dataclass(frozen=True)
class Heads:
    """The heads of a block: `queries` of them share `keys` of keys and of values, each `dim` features wide."""

    queries: int
    keys: int
    dim: int

    def __post_init__(self) -> None:
        """Refuse numbers that make no heads.

        Raises:
            ValueError: a number is not positive, or the key heads do not divide the query heads.
        """
        if min(self.queries, self.keys, self.dim) < 1:
            raise ValueError(f"heads, key_heads and head_dim must be positive, not {self}")
        if self.queries % self.keys:
            raise ValueError(f"{self.queries} heads are not a multiple of {self.keys} key_heads")

    @property
    def total(self) -> int:
        """Heads that a block projects: queries, keys and values."""
        return self.queries + 2 * self.keys

    @property
    def group(self) -> int:
        """Query heads of one key head."""
        return self.queries // self.keys

    def unfold(self, projected: Tensor) -> Tensor:
        """[..., total * dim] -> [..., total, dim]."""
        return projected.view(*projected.shape[:-1], self.total, self.dim)

    def split(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., total, dim] -> queries, keys and values, [..., queries or keys, dim]."""
        first = self.queries + self.keys
        return projected[..., : self.queries, :], projected[..., self.queries : first, :], projected[..., first:, :]

    def grouped(self, projected: Tensor) -> Tensor:
        """The queries, [N, total, dim] -> [N, keys, group, dim]."""
        return projected[:, : self.queries].view(-1, self.keys, self.group, self.dim)

    def stored(self, projected: Tensor) -> Tensor:
        """Keys and values, [N, total, dim] -> [N, 2, keys, dim]."""
        return projected[:, self.queries :].view(-1, 2, self.keys, self.dim)


@dataclass(frozen=True)
class Cache:
    """Keys and values of all slots, allocated once.

    Attributes:
        memories: one tensor a layer, [2, slots, key heads, max_length, dim]: keys, rotated, and values, as projected.
    """

    memories: tuple[Tensor, ...]

    @classmethod
    def allocate(cls, layers: int, slots: int, length: int, heads: Heads, like: Tensor) -> "Cache":
        """A cache on the device and in the dtype of `like`."""
        shape = (2, slots, heads.keys, length, heads.dim)
        # Zeros, not empty: rows are read up to a common span, and garbage may hold NaN, which no mask removes.
        return cls(tuple(_zeros(shape, like) for _ in range(layers)))

    @property
    def keys(self) -> tuple[Tensor, ...]:
        """One tensor a layer, [slots, key heads, max_length, dim]."""
        return tuple(memory[0] for memory in self.memories)

    @property
    def values(self) -> tuple[Tensor, ...]:
        """One tensor a layer, [slots, key heads, max_length, dim]."""
        return tuple(memory[1] for memory in self.memories)

    def copy(self, source: int, target: int, length: int) -> None:
        """Make the first positions of slot `target` those of slot `source`."""
        for memory in self.memories:
            memory[:, target, :, :length] = memory[:, source, :, :length]


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros that cost no memory before they are written, where the system can do that.

    `torch.zeros` writes every page. Large pages would take 2 MiB for the first token of a slot, in every layer.
    """
    if like.device.type != "cpu" or sys.platform != "linux":
        return torch.zeros(shape, device=like.device, dtype=like.dtype)
    pages = mmap.mmap(-1, math.prod(shape) * like.element_size())
    pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=like.dtype).view(shape)


class Rotary(nn.Module):
    """Rotary positions (Su et al. 2021): feature i of a head turns with feature i + dim / 2.

    The tables are made of angles in float32, whatever the network computes in.
    """

    def __init__(self, length: int, heads: Heads, frequencies: Tensor) -> None:
        """Make the tables of `length` positions; frequencies [heads.dim / 2], radians a position.

        Raises:
            ValueError: the tables would be larger than anybody needs, or a head can't be turned in pairs.
        """
        super().__init__()
        check_length(length)
        if length * heads.dim > MAX_TABLE:
            raise ValueError(f"max_length {length} times head_dim {heads.dim} is over {MAX_TABLE}")
        self._turned, self._kept = heads.queries + heads.keys, heads.keys
        angles = torch.outer(torch.arange(length).float(), frequencies.float())
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, positions: Tensor) -> Rotation:
        """What turns projected heads at positions [N]: once for all layers."""
        cos, sin = self.cos[positions], self.sin[positions]  # type: ignore[index]  # typed Tensor | Module
        return self._of_all(torch.cat([cos, cos], -1), 1.0), self._of_all(torch.cat([-sin, sin], -1), 0.0)

    def _of_all(self, table: Tensor, kept: float) -> Tensor:
        """[N, dim] -> [N, total, dim]; what stands for values keeps them as they are."""
        return F.pad(table[:, None].expand(-1, self._turned, -1), (0, 0, 0, self._kept), value=kept)


def check_length(length: int) -> None:
    """Raises a ValueError for a number of positions that nobody needs."""
    if not isinstance(length, int) or not 1 <= length <= MAX_LENGTH:
        raise ValueError(f"max_length {length} is not between 1 and {MAX_LENGTH}")


def frequencies(dim: int, base: float) -> Tensor:
    """Plain rotary frequencies, [dim / 2]: from one radian a position down to 1 / base of it.

    Raises:
        ValueError: the head can't be turned in pairs, or the base is no number above 0.
    """
    if dim % 2:
        raise ValueError(f"head_dim {dim} is odd: rotary positions turn pairs of features")
    if not isinstance(base, int | float) or not 0 < base < math.inf:
        raise ValueError(f"rope_base {base} is not a positive number")
    return 1.0 / (base ** (torch.arange(0, dim, 2).float() / dim))


def rotate(x: Tensor, rotation: Rotation | None) -> Tensor:
    """Turn projected heads [..., N, total, dim] by the angles of their positions; values stay as they are."""
    if rotation is None:
        return x
    cos, sin = rotation
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


class Whole:
    """Attention within whole texts, without a cache; for training and as what the cached ones must equal."""

    def __init__(self, heads: Heads, rotation: Rotation | None) -> None:
        """Texts whose positions have this rotation."""
        self._heads, self._rotation = heads, rotation

    def __call__(self, _layer: int, projected: Tensor) -> Tensor:
        """[B, T, total, dim] -> [B, T, queries * dim]."""
        heads, dtype = self._heads, projected.dtype
        rotation = self._rotation and (self._rotation[0].to(dtype), self._rotation[1].to(dtype))  # autocast's
        q, k, v = heads.split(rotate(projected, rotation))
        if heads.group > 1:
            k, v = (part.repeat_interleave(heads.group, -2) for part in (k, v))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


class Places:
    """Where packed pieces of prompts stand.

    Attributes:
        starts: position of each piece.
        lengths: tokens of each.
        slots: of each.
        rows: the slot of every token, [N].
        positions: of every token, [N].
    """

    def __init__(
        self, starts: Sequence[int], lengths: Sequence[int], slots: Sequence[int], device: torch.device
    ) -> None:
        """Pieces of these lengths at these starts in these slots; tensors are made on the device."""
        self.starts, self.lengths, self.slots = list(starts), list(lengths), list(slots)
        ranges = [torch.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)]
        self.positions = torch.cat(ranges).to(device)
        self.rows = torch.tensor(self.slots).repeat_interleave(torch.tensor(self.lengths)).to(device)


class Pieces:
    """Attention of pieces of prompts, packed: each sequence over its own prefix in the cache, nobody else's.

    A sequence is attended to alone, in a shape that its own piece decides, so that its bits do not depend on others.
    """

    def __init__(self, heads: Heads, rotation: Rotation | None, cache: Cache, places: Places) -> None:
        """Pieces at these places; the rotation is that of their positions."""
        self._heads, self._rotation, self._cache, self._places = heads, rotation, cache, places
        shapes = list(zip(places.starts, places.lengths, strict=True))
        masks = {shape: _causal(*shape, cache.memories[0]) for shape in set(shapes)}
        self._masks = [masks[shape] for shape in shapes]

    def __call__(self, layer: int, projected: Tensor) -> Tensor:
        """[N or more, total, dim], pieces one after another -> [as many, queries * dim]; writes this layer's cache."""
        heads, memory, places = self._heads, self._cache.memories[layer], self._places
        turned = rotate(projected[: len(places.rows)], self._rotation)
        memory[:, places.rows, :, places.positions] = heads.stored(turned)
        queries, (keys, values) = heads.grouped(turned), memory
        out = queries.new_zeros(len(projected), *queries.shape[1:])
        cuts = _cut(queries, places.lengths), _cut(out[: len(turned)], places.lengths)
        for q, attended, slot, mask in zip(*cuts, places.slots, self._masks, strict=True):
            span = mask.shape[1]
            attended.copy_(_attend(q, keys[slot, :, None, :span], values[slot, :, None, :span], mask))
        return out.flatten(1)


def _cut(x: Tensor, lengths: list[int]) -> tuple[Tensor, ...]:
    pieces: tuple[Tensor, ...] = x.split(lengths)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return pieces


def _causal(start: int, length: int, like: Tensor) -> Tensor:
    """What is added to scores of a piece, [length, start + length]: -inf for what lies ahead."""
    mask = torch.full((length, start + length), -math.inf, device=like.device, dtype=like.dtype)
    return mask.triu_(start + 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """[T, keys, group, dim] over [keys, 1, S, dim] -> like the queries.

    Key heads stand where a batch does, and the queries that share them are heads over the same keys: nothing is
    repeated in memory.
    """
    shape = (-1, q.shape[2], -1, -1)
    attended = F.scaled_dot_product_attention(q.permute(1, 2, 0, 3), k.expand(shape), v.expand(shape), attn_mask=mask)
    return attended.permute(2, 0, 1, 3)


class Step:
    """Attention of one new token a row; row i is slot i."""

    def __init__(self, heads: Heads, rotation: Rotation | None, cache: Cache, positions: Tensor, span: int) -> None:
        """Tokens at positions [R], all live ones less than `span`."""
        self._heads, self._rotation, self._cache = heads, rotation, cache
        self._positions, self._span, self._live = positions, span, len(positions)
        self._rows = torch.arange(self._live, device=positions.device)
        ahead = torch.arange(span, device=positions.device) > positions[:, None]
        mask = torch.zeros(ahead.shape, device=positions.device, dtype=cache.memories[0].dtype)
        self._mask = mask.masked_fill_(ahead, -math.inf)[:, None, None]  # [R, 1, 1, span]

    def __call__(self, layer: int, projected: Tensor) -> Tensor:
        """[R, total, dim] -> [R, queries * dim]; writes this position of the layer's cache, reads the first `span`."""
        heads, memory = self._heads, self._cache.memories[layer]
        turned = rotate(projected, self._rotation)
        memory[:, self._rows, :, self._positions] = heads.stored(turned)
        k, v = memory[:, : self._live, :, : self._span].unbind()
        return F.scaled_dot_product_attention(heads.grouped(turned), k, v, attn_mask=self._mask).flatten(1)
