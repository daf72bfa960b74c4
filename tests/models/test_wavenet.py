"""The network for speech says the same however a clip comes to it: whole, in pieces, sample by sample."""

import pytest
import torch

from models.protocols import ConditionedModel, PrefixModel, SequenceModel
from models.wavenet import WaveNet

SLOTS, HOP, LENGTH = 4, 8, 96
TRANSCRIPT = [3.0, 1.0, 4.0, 1.0, 5.0]


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def build(**changes):
    torch.manual_seed(0)
    config = {"max_length": 200, "width": 8, "skip": 12, "stacks": 2, "layers": 4, "hop": HOP, "characters": 6}
    network = WaveNet(**{**config, "condition_length": 8, "text_width": 8, "features": 8} | changes)
    for linear in (network.out, network.tell):
        torch.nn.init.normal_(linear.weight)  # as sharp as a trained one, so that a wrong sample or frame shows
    torch.nn.init.normal_(network.transcript.duration.weight)
    return network.eval()


@pytest.fixture
def network():
    return build()


@pytest.fixture(scope="module")
def clip():
    return torch.randint(256, (LENGTH,), generator=torch.Generator().manual_seed(1))


def whole(network, clip, numbers=TRANSCRIPT):
    """Logits after every sample of a clip, without a memory."""
    frames = network.transcript(torch.tensor(numbers).long(), LENGTH // HOP)
    return network(clip, [len(clip)], frames)


def tell(network, state, slot, numbers=TRANSCRIPT, samples=LENGTH):
    condition = torch.zeros(1, network.condition_length)
    condition[0, : 1 + len(numbers)] = torch.tensor([float(samples), *numbers])
    network.condition(condition, [1 + len(numbers)], [slot], state)


def read(network, state, slot, samples, start=0):
    """One piece into a slot, padded with a sample that is not silence."""
    padded = torch.cat([samples, torch.tensor([7, 7])])[None]
    return network.prefill(padded, [start], [len(samples)], [slot], state)[0]


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def dirty(network):
    """A state in which other clips have been."""
    state = network.init_state(SLOTS)
    for slot in range(SLOTS):
        tell(network, state, slot, [2.0, 2.0], samples=24)
        read(network, state, slot, torch.arange(40) + slot)
    return state


def test_it_is_a_conditioned_model_without_prefixes(network):
    assert isinstance(network, SequenceModel)
    assert isinstance(network, ConditionedModel)
    assert not isinstance(network, PrefixModel)
    assert network.receptive_field == 31


def test_a_prediction_looks_as_far_back_as_it_says_and_never_ahead(network, clip):
    wanted = whole(network.double(), clip)
    assert wanted.std() > 0.3, "a flat output would hide everything"
    place = 40
    other = clip.clone()
    other[place] = 255 - other[place]
    changed = (whole(network, other) - wanted).abs().amax(1) > 1e-12
    first, last = changed.nonzero()[0], changed.nonzero()[-1]
    assert (int(first), int(last)) == (place, place + network.receptive_field - 1)


@pytest.mark.parametrize("cuts", [[1], [16, 33], [LENGTH]])
def test_pieces_and_steps_equal_the_whole_forward_whatever_was_in_the_slot_before(network, clip, cuts):
    wanted, state, start = whole(network, clip), dirty(network), 0
    tell(network, state, 2)
    for end in cuts:
        close(read(network, state, 2, clip[start:end], start), wanted[end - 1])
        start = end
    for place in range(start, LENGTH):
        tokens = torch.tensor([5, 6, int(clip[place])])
        close(network.step(tokens, torch.full((3,), place), LENGTH, state)[2], wanted[place])


def test_rows_far_apart_in_their_clips_keep_out_of_each_other(network, clip):
    """One is a frame and a turn of every ring ahead of the other, and they are told other words."""
    wanted, other = whole(network, clip), whole(network, clip.flip(0), [6.0, 6.0, 1.0])
    state = dirty(network)
    tell(network, state, 0)
    tell(network, state, 1, [6.0, 6.0, 1.0])
    network.prefill(torch.stack([clip, clip.flip(0)]), [0, 0], [1, 34], [0, 1], state)
    for place in range(1, 40):
        tokens = torch.stack([clip[place], clip.flip(0)[place + 33]])
        logits = network.step(tokens, torch.tensor([place, place + 33]), LENGTH, state)
        close(logits, torch.stack([wanted[place], other[place + 33]]))


def test_a_row_has_the_same_bits_alone_and_in_company_of_its_size(network, clip):
    found = []
    for company in ([5, 6, 7], [200, 100, 0]):
        state = dirty(network)
        tell(network, state, 3)
        read(network, state, 3, clip[:1])
        steps = [
            network.step(torch.tensor([*company, int(clip[place])]), torch.full((4,), place), LENGTH, state)[3]
            for place in range(1, 20)
        ]
        found.append(torch.stack(steps))
    assert torch.equal(*found)


def test_what_is_to_be_said_and_how_long_it_takes_decide(network, clip):
    logits = []
    for numbers, samples in ((TRANSCRIPT, LENGTH), (TRANSCRIPT[::-1], LENGTH), (TRANSCRIPT, LENGTH // 2)):
        state = network.init_state(1)
        tell(network, state, 0, numbers, samples)
        logits.append(read(network, state, 0, clip[:30]))
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    assert (logits[0] - logits[2]).abs().max() > 1e-3


def test_a_slot_that_is_told_nothing_is_one_that_never_was_told_anything(network, clip):
    fresh, state = network.init_state(1), dirty(network)
    network.condition(torch.zeros(1, 8), [0], [1], state)
    for place in (30, 90):
        assert torch.equal(read(network, fresh, 0, clip[:place]), read(network, state, 1, clip[:place]))


def test_behind_its_end_a_clip_goes_on_with_its_last_frame(network, clip):
    state = network.init_state(1)
    tell(network, state, 0, samples=16)
    read(network, state, 0, clip[:15])
    last = state.frames[0, 1].clone()
    for place in range(15, 60):
        assert network.step(clip[place, None], torch.tensor([place]), LENGTH, state).isfinite().all()
    assert torch.equal(state.frames[0, 1], last)
    assert not state.frames[0, 2:].any(), "no frame was made that nobody asked for"


def test_characters_take_the_whole_clip_and_the_longer_ones_more_of_it(network):
    frames = network.transcript(torch.tensor([1, 2, 3]), 40)
    assert frames.shape == (40, 8)
    assert (frames[5] - frames[34]).abs().max() > 1e-3


def test_it_works_in_bfloat16(network, clip):
    network.to(torch.bfloat16)
    state = network.init_state(2)
    tell(network, state, 0)
    close(read(network, state, 0, clip[:20]).float().softmax(0).sum(), torch.tensor(1.0))
    assert state.inputs.dtype == torch.bfloat16


@pytest.mark.parametrize(("lengths", "frames"), [([90], 12), ([88], 12), ([96], 11)])
def test_pieces_that_are_no_whole_frames_are_refused(network, clip, lengths, frames):
    with pytest.raises(ValueError, match="are not"):
        network(clip[: sum(lengths)], lengths, torch.zeros(frames, 8))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hop": 0}, "hop 0"),
        ({"layers": 17}, "layers 17"),
        ({"max_length": 1 << 21}, "max_length"),
        ({"skip": -1}, "skip"),
    ],
)
def test_sizes_that_nobody_needs_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        build(**changes)
