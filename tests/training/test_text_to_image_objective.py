import pytest
import torch

from tests.training import captions
from training.data import Batch, Loader
from training.errors import TrainingError
from training.text_to_image import TextToImageObjective

CPU = torch.device("cpu")


@pytest.fixture
def build(recipe, raw_recipe, captioned):
    def make(model=None, **options):
        torch.manual_seed(0)
        raw = raw_recipe("text-to-image")["model"]
        raw["config"] |= model or {}
        objective = raw_recipe("text-to-image")["objective"] | options
        changed = recipe("text-to-image", objective=objective, model=raw, precision="fp32", learning_rate=1e-2)
        return TextToImageObjective(changed, captioned, CPU)

    return make


def test_the_loss_falls_and_so_do_the_bits(build, captioned):
    objective = build()
    loader = Loader(captioned.train, 16, seed=0)
    before = objective.evaluate()
    losses = [objective.train_step(loader.next(), step)["loss"].item() for step in range(60)]
    after = objective.evaluate()
    assert losses[-1] < losses[0] - 0.3
    assert after["bits_per_code"] < before["bits_per_code"] - 0.3
    assert after["bits_per_code_emoji"] < before["bits_per_code_emoji"] - 0.3


def test_the_rate_rises_over_the_warm_up_and_is_then_the_loop_s(build, captioned):
    objective, loader = build(warmup=4), Loader(captioned.train, 4, seed=0)
    (group,) = objective.optimizers["text-to-image"].param_groups
    found = []
    for step in range(6):
        group["lr"] = 1e-3
        objective.train_step(loader.next(), step)
        found.append(group["lr"])
    assert found == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3])


def test_dropped_captions_are_padding_alone_and_the_rest_are_whole(build):
    objective = build(caption_dropout=0.25)
    captions = torch.arange(17, 29).expand(2000, -1)
    found = objective._dropped(captions)
    padding = objective.networks["text-to-image"].padding
    dropped = (found == padding).all(1)
    assert torch.equal(found[~dropped], captions[~dropped])
    assert 0.2 < dropped.double().mean() < 0.3
    assert not (build(caption_dropout=0.0)._dropped(captions) == padding).any()


def test_the_autoencoder_learns_nothing(build, captioned):
    objective = build()
    before = {name: value.clone() for name, value in objective._decoder.state_dict().items()}
    objective.train_step(captioned.train.batch(torch.arange(8)), 0)
    assert all(torch.equal(value, before[name]) for name, value in objective._decoder.state_dict().items())
    assert "decoder" not in objective.networks


def test_what_is_learnt_is_the_code_behind_the_caption_and_the_codes_before_it(build, captioned):
    """The loss of one picture is that of its own codes in their order."""
    objective = build(caption_dropout=0.0)
    network = objective.networks["text-to-image"]
    batch = captioned.train.batch(torch.arange(1))
    codes = objective._decoder.encode(*batch).long().flatten(1)
    with torch.no_grad():
        logits = [network(torch.cat([batch.labels, codes[:, :place]], 1))[0, -1] for place in range(64)]
        wanted = torch.nn.functional.cross_entropy(torch.stack(logits), codes[0])
    found = objective.train_step(Batch(*batch), 0)["loss"]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_samples_are_pictures(build):
    assert build().samples().shape == (80, 3, 32, 32)


def test_what_does_not_fit_is_refused_before_the_training(build, tmp_path, recipe, raw_recipe, captioned):
    with pytest.raises(TrainingError, match="the decoder can't be loaded"):
        build(decoder=str(tmp_path))
    with pytest.raises(TrainingError, match="the judge can't be loaded"):
        build(judge=str(tmp_path))
    with pytest.raises(TrainingError, match=r"model\.config\.vocab_size: 60 given"):
        build({"vocab_size": 60})
    with pytest.raises(TrainingError, match="'gpt' draws no pictures for captions"):
        TextToImageObjective(recipe("text-to-image", model=raw_recipe("language")["model"]), captioned, CPU)


def test_codes_that_look_alike_begin_alike(build):
    """Distances between vectors of codes follow those between entries of the codebook."""
    objective = build()
    network, entries = objective.networks["text-to-image"], objective._decoder.entries
    wanted = torch.pdist(entries)
    for weight in (network.embedding.weight, network.head.weight):
        found = torch.pdist(weight[: network.num_codes].detach())
        assert torch.corrcoef(torch.stack([wanted, found]))[0, 1] > 0.6
    codes, words = network.embedding.weight.detach().split([network.num_codes, captions.WORDS])
    assert codes.std().item() == pytest.approx(words.std().item(), rel=0.3)
