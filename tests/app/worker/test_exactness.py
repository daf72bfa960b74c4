"""What a model is found to be exact in: fakes that are not, and real networks."""

import pytest
import torch

from app.worker.exactness import NEVER, PIECES, find_exact, row_counts
from app.worker.pieces import CHUNK
from models.gpt import GPT
from tests import fake_sequences as fakes

CPU = torch.device("cpu")


def found(network, slots=8):
    with torch.inference_mode():
        return find_exact(network, CPU, slots)


def test_an_exact_model_may_do_anything():
    exact = found(fakes.Digest(max_length=300))
    assert (exact.slots, exact.buckets, exact.packs_from) == (8, (1, 2, 4, 8), 1)
    assert exact.spans == (*range(32, 300, 32), 300)


def test_row_counts_half_way_between_powers_of_two_begin_at_twelve():
    assert row_counts(32) == [1, 2, 4, 8, 12, 16, 24, 32]
    assert row_counts(1) == [1]
    assert row_counts(10) == [1, 2, 4, 8, 10]
    assert row_counts(14) == [1, 2, 4, 8, 12, 14]


class ShortPiecesDiffer(fakes.Digest):
    """Calls of fewer than 16 tokens have other bits, as matrix products have."""

    def prefill(self, tokens, starts, lengths, slots, state, /):
        logits = super().prefill(tokens, starts, lengths, slots, state)
        return logits + 1e-3 if sum(lengths) < 16 else logits


class CompanyDiffers(fakes.Digest):
    """Two pieces in a call have other bits than one."""

    def prefill(self, tokens, starts, lengths, slots, state, /):
        logits = super().prefill(tokens, starts, lengths, slots, state)
        return logits + 1e-3 if len(slots) > 1 else logits


class CompanyLeavesATrace(fakes.Digest):
    """The logits are right, but what was remembered is not, as the next step tells."""

    def init_state(self, slots, /):
        state = super().init_state(slots)
        state.traces = torch.zeros(slots)
        return state

    def prefill(self, tokens, starts, lengths, slots, state, /):
        state.traces[list(slots)] = 1e-3 * (len(slots) > 1)
        return super().prefill(tokens, starts, lengths, slots, state)

    def step(self, tokens, positions, span, state, /):
        return super().step(tokens, positions, span, state) + state.traces[: len(tokens), None]


def test_pieces_that_are_too_short_are_not_packed():
    assert found(ShortPiecesDiffer()).packs_from == 16


@pytest.mark.parametrize("network", [CompanyDiffers(), CompanyLeavesATrace()])
def test_nothing_is_packed_where_company_changes_bits(network):
    assert found(network).packs_from == NEVER


def test_a_model_that_knows_no_positions():
    exact = found(fakes.Recurrent(), slots=4)
    assert (exact.slots, exact.buckets, exact.packs_from) == (4, (1, 2, 4), 1)


class TooShortForLongSpans(fakes.Digest):
    """Rows of long sequences have other bits where the prefix just holds them."""

    def step(self, tokens, positions, span, state, /):
        logits = super().step(tokens, positions, span, state)
        return logits + 1e-3 * ((positions > 90) & (span < 256))[:, None]


def test_long_sequences_are_tried_as_well_as_short_ones():
    assert found(TooShortForLongSpans(max_length=600)).spans == (256, 512, 600)


@pytest.mark.parametrize("max_length", [1, 2, 3, 31, 32, 33, CHUNK, CHUNK + 1, 2 * CHUNK])
@pytest.mark.parametrize("slots", [1, 2, 5])
def test_any_length_and_number_of_slots(max_length, slots):
    for network in (fakes.Digest(max_length=max_length), fakes.Recurrent(max_length=max_length)):
        exact = found(network, slots)
        assert exact.slots == exact.buckets[-1] == slots
        assert exact.spans[-1] == max_length
        assert exact.packs_from == (NEVER if slots == 1 else PIECES[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_real_network_in_both_precisions(dtype):
    torch.manual_seed(0)
    network = GPT(vocab_size=96, max_length=256, width=64, layers=2, heads=4).eval().requires_grad_(False).to(dtype)
    exact = found(network, slots=8)
    assert exact.slots == 8
    assert exact.spans[-1] == 256
