import pytest
import torch

from training.audio import LEFT_OUT, AudioObjective
from training.data import Loader
from training.errors import TrainingError
from training.speech import Piece

CPU = torch.device("cpu")


@pytest.fixture
def build(recipe, raw_recipe, speech):
    def make(model=None, **options):
        torch.manual_seed(0)
        objective = raw_recipe("audio")["objective"] | options
        raw = raw_recipe("audio")["model"]
        raw["config"] |= model or {}
        return AudioObjective(recipe("audio", objective=objective, model=raw, precision="fp32"), speech, CPU)

    return make


def test_the_loss_falls_and_so_do_the_bits_on_clips_never_seen(build, speech):
    objective = build(warmup=0)
    loader = Loader(speech.train, 2, seed=0)
    before = objective.evaluate()["validation_bits_per_sample"]
    found = [objective.train_step(loader.next(), step) for step in range(40)]
    assert found[-1]["loss"] < found[0]["loss"] - 1
    assert found[-1]["ear"] < found[0]["ear"]
    assert objective.evaluate()["validation_bits_per_sample"] < before - 0.3
    assert before == pytest.approx(8.0, abs=0.2)  # bits of a code when nothing is known


def test_samples_without_their_whole_past_are_heard_and_not_counted(build, speech):
    objective, clip = build(), speech.train.clips[0]
    reach = objective.product().receptive_field
    targets = objective._counted(Piece(clip, 1, 4))
    assert (targets[:reach] == LEFT_OUT).all()
    assert torch.equal(targets[reach:], clip.targets[40:200][reach:])
    assert torch.equal(objective._counted(Piece(clip, 0, 4)), clip.targets[:160])
    assert (build({"layers": 9})._counted(Piece(clip, 1, 4)) == LEFT_OUT).all(), "a piece shorter than the past"


def test_the_loss_of_a_window_is_that_of_its_clips_whole(build, speech):
    """What is counted in the middle of a clip is counted as when the clip is read from its beginning."""
    objective, clip = build(), speech.train.clips[0]
    with torch.no_grad():
        said = {clip: objective._said(clip)}
        cut = objective._nats([Piece(clip, 2, 4)], said)
        logits = objective.product()(clip.inputs, [len(clip.codes)], said[clip])
        losses = torch.nn.functional.cross_entropy(logits, clip.targets, reduction="none")
    counted = losses[80:240][objective.product().receptive_field :]
    assert cut.item() == pytest.approx(counted.mean().item(), rel=1e-4)


def test_the_transcript_learns_when_what_is_said(build, speech):
    """Even without the ear: the gradient reaches the durations through the samples alone."""
    objective = build(ear_weight=0.0)
    objective.train_step(Loader(speech.train, 2, seed=0).next(), 0)
    network = objective.networks["audio"]
    assert network.transcript.duration.bias.grad is not None
    assert network.transcript.embedding.weight.grad.abs().sum() > 0


def test_the_rate_rises_over_the_warm_up(build, speech):
    objective, loader = build(warmup=4), Loader(speech.train, 1, seed=0)
    found = []
    for step in range(5):
        for optimizer in objective.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = 1e-3
        objective.train_step(loader.next(), step)
        found.append([group["lr"] for optimizer in objective.optimizers.values() for group in optimizer.param_groups])
    assert [set(rates) for rates in found] == [{2.5e-4}, {5e-4}, {7.5e-4}, {1e-3}, {1e-3}]


@pytest.mark.parametrize(
    ("model", "said"),
    [({"vocab_size": 128}, "vocab_size is 128"), ({"hop": 20}, "hop is 20"), ({"characters": 5}, "characters is 5")],
)
def test_a_network_for_other_clips_is_refused(build, model, said):
    with pytest.raises(TrainingError, match=said):
        build(model)


def test_a_network_of_another_kind_is_refused(recipe, speech, raw_recipe):
    with pytest.raises(TrainingError, match="GPT is not a network for speech"):
        AudioObjective(recipe("audio", model=raw_recipe("language")["model"]), speech, CPU)


def test_speech_and_its_objective_go_together(recipe, raw_recipe):
    with pytest.raises(TrainingError, match="go together"):
        recipe("audio", data=raw_recipe("language")["data"])
    with pytest.raises(TrainingError, match="go together"):
        recipe("language", data=raw_recipe("audio")["data"])


@pytest.mark.parametrize(("key", "value"), [("hop", 201), ("window", 410), ("held_out_share", 1.0), ("longest", 0.0)])
def test_data_out_of_range_are_refused(recipe, raw_recipe, key, value):
    with pytest.raises(TrainingError, match=f"data.{key}"):
        recipe("audio", data=raw_recipe("audio")["data"] | {key: value})
