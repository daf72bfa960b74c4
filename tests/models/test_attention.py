"""The cache and the three kinds of attention, on numbers that need no network."""

import math
import resource
import sys
from pathlib import Path

import pytest
import torch

from models.attention import MAX_TABLE, Cache, Heads, Pieces, Places, Rotary, Step, Whole, frequencies, rotate

SLOTS, LENGTH = 4, 20


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(params=[Heads(4, 4, 8), Heads(6, 2, 8), Heads(3, 1, 8)], ids=["own", "grouped", "one"])
def heads(request):
    return request.param


@pytest.fixture
def rotary(heads):
    return Rotary(LENGTH, heads, frequencies(8, 100.0))


def projected(heads, texts=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(texts, LENGTH, heads.total, heads.dim, generator=generator)


def by_hand(heads, x, rotary):
    """Attention of one text [T, total, dim] by its definition, one head and one position at a time."""
    turned = rotate(x, rotary(torch.arange(len(x))))
    out = torch.zeros(len(x), heads.queries, heads.dim)
    for head in range(heads.queries):
        keys = turned[:, heads.queries + head // heads.group]
        values = x[:, heads.queries + heads.keys + head // heads.group]
        for place in range(len(x)):
            scores = keys[: place + 1] @ turned[place, head] / math.sqrt(heads.dim)
            out[place, head] = scores.softmax(0) @ values[: place + 1]
    return out.flatten(1)


def test_whole_texts_are_attended_to_as_defined(heads, rotary):
    x = projected(heads, texts=2)
    got = Whole(heads, rotary(torch.arange(LENGTH)))(0, x)
    wanted = torch.stack([by_hand(heads, text, rotary) for text in x])
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("edges", [(20,), (7, 20), (1, 2, 3, 16, 20)])
def test_pieces_and_steps_are_the_whole(heads, rotary, edges):
    x, start, got = projected(heads)[0], 0, []
    cache = Cache.allocate(1, SLOTS, LENGTH, heads, x)
    for edge in (edge for edge in edges if edge <= 16):
        places = Places([start], [edge - start], [2], x.device)
        got.append(Pieces(heads, rotary(places.positions), cache, places)(0, x[start:edge]))
        start = edge
    for position in range(start, LENGTH):
        positions = torch.tensor([0, 0, position])
        attention = Step(heads, rotary(positions), cache, positions, LENGTH)
        got.append(attention(0, x[position].expand(3, -1, -1))[2:])
    torch.testing.assert_close(torch.cat(got), by_hand(heads, x, rotary), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_piece_has_the_bits_that_it_has_alone(heads, rotary, dtype):
    x = projected(heads, texts=3).to(dtype)
    starts, lengths, slots = [4, 0, 9], [5, 7, 1], [3, 0, 1]
    together, alone = (Cache.allocate(1, SLOTS, LENGTH, heads, x) for _ in range(2))
    for cache in (together, alone):
        for row, (start, slot) in enumerate(zip(starts, slots, strict=True)):
            if start:
                read(heads, rotary, cache, x, [row], [0], [start], [slot])
    got = read(heads, rotary, together, x, [0, 1, 2], starts, lengths, slots).split(lengths)
    for row, bits in enumerate(got):
        assert torch.equal(bits, read(heads, rotary, alone, x, [row], [starts[row]], [lengths[row]], [slots[row]]))
    assert all(torch.equal(a, b) for a, b in zip(together.keys, alone.keys, strict=True))


def read(heads, rotary, cache, x, rows, starts, lengths, slots):
    places = Places(starts, lengths, slots, x.device)
    packed = torch.cat([x[row, a : a + n] for row, a, n in zip(rows, starts, lengths, strict=True)])
    rotation = tuple(part.to(x.dtype) for part in rotary(places.positions))
    return Pieces(heads, rotation, cache, places)(0, packed)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_cache_takes_memory_where_it_is_written():
    """A GiB of slots, of which a few tokens are read into."""
    heads = Heads(4, 4, 64)
    before = resident()
    cache = Cache.allocate(4, 16, 8192, heads, torch.zeros(1))
    assert sum(memory.nbytes for memory in (*cache.keys, *cache.values)) == 1 << 30
    for memory in (*cache.keys, *cache.values):
        assert memory.dtype == torch.float32
        assert not memory[3, :, :64].any()
        memory[3, :, :16] = 1
    assert resident() - before < 64 << 20


def resident():
    """Bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_copied_beginning_is_the_same_bits_and_no_more(heads):
    x = projected(heads)[0]
    cache = Cache.allocate(2, SLOTS, LENGTH, heads, x)
    for memory in (*cache.keys, *cache.values):
        memory.normal_()
    before = [memory.clone() for memory in (*cache.keys, *cache.values)]
    cache.copy(1, 3, 6)
    for old, memory in zip(before, (*cache.keys, *cache.values), strict=True):
        assert torch.equal(memory[3, :, :6], old[1, :, :6])
        assert torch.equal(memory[3, :, 6:], old[3, :, 6:])
        assert torch.equal(memory[:3], old[:3])


def test_turned_heads_depend_on_distances_alone():
    heads = Heads(1, 1, 8)
    rotary = Rotary(LENGTH, heads, frequencies(8, 100.0))
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    at = [rotate(x, rotary(torch.tensor(where))) for where in ([3, 1], [12, 10], [12, 9])]
    near, far, other = (float(turned[0, 0] @ turned[1, 1]) for turned in at)
    assert near == pytest.approx(far, abs=1e-5)
    assert near != pytest.approx(other, abs=1e-3)
    assert all(torch.equal(turned[:, 2], x[:, 2]) for turned in at), "values stay"
    assert rotate(x, None) is x


@pytest.mark.parametrize(
    ("queries", "keys", "dim"), [(4, 3, 8), (4, 8, 8), (0, 1, 8), (4, 0, 8), (4, 2, 0), (-4, -2, 8)]
)
def test_heads_that_do_not_fit_together_are_refused(queries, keys, dim):
    with pytest.raises(ValueError, match="heads"):
        Heads(queries, keys, dim)


@pytest.mark.parametrize(
    ("length", "dim", "said"), [(0, 8, "max_length 0"), (1 << 21, 8, "max_length"), (1 << 20, 128, str(MAX_TABLE))]
)
def test_tables_are_bounded(length, dim, said):
    with pytest.raises(ValueError, match=said):
        Rotary(length, Heads(2, 1, dim), torch.ones(dim // 2))


@pytest.mark.parametrize(("dim", "base"), [(7, 10.0), (8, 0.0), (8, -1.0), (8, math.inf), (8, math.nan)])
def test_frequencies_need_pairs_and_a_base(dim, base):
    with pytest.raises(ValueError, match=r"head_dim 7|rope_base"):
        frequencies(dim, base)
