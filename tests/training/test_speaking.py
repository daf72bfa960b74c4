import numpy as np
import pytest
import torch

from models.wavenet import WaveNet
from training import hearing, listening
from training.errors import TrainingError
from training.hearing import METRICS, how, measure, output
from training.listening import listen
from training.speaking import Wish, speak


@pytest.fixture
def network(raw_recipe):
    torch.manual_seed(0)
    made = WaveNet(**raw_recipe("audio")["model"]["config"]).eval()
    torch.nn.init.normal_(made.out.weight)
    return made.requires_grad_(False)


@pytest.fixture
def short(monkeypatch):
    """The clips of these tests are shorter than prompts of a telephone."""
    monkeypatch.setattr(listening, "SHORTEST", 0.1)
    monkeypatch.setattr(listening, "COUNT", 2)


def teacher_forced(network, characters, codes):
    """Logits of a clip by one forward pass over whole frames."""
    whole = -(-len(codes) // network.hop) * network.hop
    inputs = torch.cat([torch.tensor([128]), torch.from_numpy(codes.astype(np.int64))[:-1]])
    padded = torch.nn.functional.pad(inputs, (0, whole - len(codes)))
    return network(padded, [whole], network.transcript(characters, whole // network.hop))[: len(codes)]


def test_clips_are_as_long_as_wished_and_drawn_from_what_the_network_says(network):
    words = torch.tensor([1, 2, 3])
    codes = speak(network, [Wish(words, 130, temperature=1e-9), Wish(words.flip(0), 60)])
    assert [len(clip) for clip in codes] == [130, 60]
    assert codes[0].tolist() == teacher_forced(network, words, codes[0]).argmax(1).tolist()


def test_a_clip_is_the_same_in_any_company_and_another_with_another_seed(network):
    wish = Wish(torch.tensor([1, 2]), 80, seed=3)
    alone, other = speak(network, [wish]), speak(network, [Wish(torch.tensor([1, 2]), 80, seed=4)])
    company = speak(network, [Wish(torch.tensor([5]), 120, seed=1), wish])
    assert (alone[0] == company[1]).mean() > 0.95, "but for rounding"
    assert (alone[0] == other[0]).mean() < 0.5


def test_the_temperature_is_the_wishs_own(network):
    words = torch.tensor([1, 2])
    cold, hot = speak(network, [Wish(words, 200, temperature=0.3), Wish(words, 200, temperature=3.0)])
    assert len(set(cold.tolist())) < len(set(hot.tolist()))


@pytest.mark.parametrize("samples", [0, 4001])
def test_clips_that_cannot_be_made_are_refused(network, samples):
    with pytest.raises(ValueError, match=f"{samples} samples"):
        speak(network, [Wish(torch.tensor([1]), samples)])
    with pytest.raises(ValueError, match="16 characters"):
        speak(network, [Wish(torch.ones(16), 80)])


def test_nothing_can_be_made_of_nothing(network):
    with pytest.raises(ValueError, match="0 samples"):
        speak(network, [])


def test_the_metrics_are_those_that_gates_may_name(network, speech):
    found = measure(network, speech)
    assert tuple(found) == METRICS
    assert found["margin"] == pytest.approx(found["lpc_bits_per_sample"] - found["bits_per_sample"])
    assert found["bits_per_sample"] == pytest.approx(8, abs=1.5), "it has learnt nothing yet"
    assert 0 < found["lpc_free_bits_per_sample"] < found["lpc_bits_per_sample"] < 4, "tones and silence"
    assert 0 < found["bigram_bits_per_sample"] < 4
    assert how(speech)["clips"] == len(speech.test)


def test_bits_do_not_depend_on_how_much_is_read_at_once(network, speech, monkeypatch):
    whole = hearing.bits_per_sample(network, speech.test)
    monkeypatch.setattr(hearing, "FRAMES", 5)
    assert hearing.bits_per_sample(network, speech.test) == pytest.approx(whole, abs=1e-5)
    clip = speech.test[0]
    losses = torch.nn.functional.cross_entropy(
        teacher_forced(network, clip.characters, clip.codes), clip.targets, reduction="none"
    )
    assert hearing.bits_per_sample(network, [clip]) == pytest.approx(losses.mean().item() / np.log(2), abs=1e-4)


def test_a_service_is_told_how_long_a_character_takes(speech):
    clips = speech.train.clips
    said = output(speech)
    assert said["samples_per_character"] == pytest.approx(
        sum(len(clip.codes) for clip in clips) / sum(len(clip.text) for clip in clips), abs=0.5
    )
    assert said["characters"] == " abcde"
    assert (said["start_token_id"], said["sample_rate"], said["encoding"]) == (128, 8000, "mu-law")


def test_an_impression_compares_temperatures_controls_and_recordings(network, speech, short):
    found = listen(network, speech, (0.5, 1.0))
    assert [row["temperature"] for row in found.rows[:2]] == ["0.5", "1"]
    assert "other words" in found.rows[2]["temperature"]
    assert "recordings" in found.rows[3]["temperature"]
    distances = [row["distance"] for row in found.rows]
    assert found.temperature == (0.5, 1.0)[int(np.argmin(distances[:2]))]
    assert distances[3] == min(distances), "nothing is as near to recordings as recordings"
    assert [clip.name for clip in found.shown] == [clip.name for clip in speech.test[:2]]
    assert all(len(clip.made) == len(clip.real) for clip in found.shown)


def test_recordings_are_recognised(speech, short):
    prompts = list(speech.test)
    found = listening._Ear(prompts).judge([clip.codes for clip in prompts])
    assert found == {"distance": pytest.approx(0, abs=1e-3), "nearest": 1.0, "median_rank": 1.0}


def test_controls_are_other_words(speech):
    words = listening._others(speech.test)
    for clip, other in zip(speech.test, words, strict=True):
        assert not torch.equal(clip.characters, other)
    assert len(words) == len({tuple(other.tolist()) for other in words})


def test_clips_that_are_all_too_short_are_refused(network, speech):
    with pytest.raises(TrainingError, match=r"0 held-out clips of 0\.6 to 3\.0 seconds"):
        listen(network, speech, (1.0,))
