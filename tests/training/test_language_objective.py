import copy

import pytest
import torch
from torch.backends import cuda

from training.data import Loader
from training.errors import TrainingError
from training.language import LanguageObjective, plain_attention
from training.run import Run
from training.text import load_text_dataset

CPU = torch.device("cpu")


@pytest.fixture
def build(recipe, raw_recipe, texts):
    def make(model=None, **options):
        torch.manual_seed(0)
        objective = raw_recipe("language")["objective"] | options
        raw = raw_recipe("language")["model"]
        raw["config"] |= model or {}
        return LanguageObjective(recipe("language", objective=objective, model=raw, precision="fp32"), texts, CPU)

    return make


def rates(objective, texts, falling):
    """The rates that steps were made with when the loop had set these."""
    loader, optimizer = Loader(texts.train, 4, seed=0), objective.optimizers["language"]
    found = []
    for step, rate in enumerate(falling):
        for group in optimizer.param_groups:
            group["lr"] = rate
        objective.train_step(loader.next(), step)
        found.append(optimizer.param_groups[0]["lr"])
    assert all(group["lr"] == found[-1] for group in optimizer.param_groups)
    return found


def test_the_rate_rises_over_the_warm_up_and_falls_to_the_floor(build, texts):
    peak = 2e-3  # of the recipe
    assert rates(build(warmup=4, floor=0.0), texts, [peak] * 6) == pytest.approx(
        [peak / 4, peak / 2, 3 * peak / 4, peak, peak, peak]
    )
    assert rates(build(warmup=0, floor=0.1), texts, [peak, peak / 2, 0.0]) == pytest.approx(
        [peak, 0.55 * peak, 0.1 * peak]
    )


def test_the_loss_falls_and_so_do_the_bits_on_texts_never_seen(build, texts):
    objective = build()
    loader = Loader(texts.train, 16, seed=0)
    before = objective.evaluate()["validation_bits_per_byte"]
    losses = [objective.train_step(loader.next(), step)["loss"].item() for step in range(100)]
    assert losses[-1] < losses[0] - 1
    assert objective.evaluate()["validation_bits_per_byte"] < before - 1


def test_weights_decay_and_gains_do_not(build):
    groups = build().optimizers["language"].param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all(p.ndim == 2 for p in groups[0]["params"])
    assert all(p.ndim == 1 for p in groups[1]["params"])
    network = build().networks["language"]
    assert sum(p.numel() for group in groups for p in group["params"]) == sum(p.numel() for p in network.parameters())


def test_the_gradient_is_clipped(build, texts):
    batch = Loader(texts.train, 16, seed=0).next()
    free, held = build(clip=1e9), build(clip=1e-3)
    norms = [objective.train_step(batch, 0)["gradient_norm"].item() for objective in (free, held)]
    assert norms[0] == pytest.approx(norms[1])
    left = torch.stack([p.grad.norm() for p in held.networks["language"].parameters()]).norm()
    assert left.item() == pytest.approx(1e-3, rel=1e-3)


def test_plain_attention_gives_the_same_and_leaves_no_trace(build, texts):
    network, tokens = build().networks["language"], texts.train.batch(torch.arange(4)).samples
    before = cuda.fp16_bf16_reduction_math_sdp_allowed()
    with plain_attention(CPU):
        plain = copy.deepcopy(network)(tokens)
        assert cuda.fp16_bf16_reduction_math_sdp_allowed()
    assert cuda.fp16_bf16_reduction_math_sdp_allowed() == before
    assert torch.allclose(plain, network(tokens), atol=1e-4)


def test_metrics_and_samples(build, texts):
    objective = build()
    assert set(objective.train_step(Loader(texts.train, 4, seed=0).next(), 0)) == {"loss", "gradient_norm"}
    assert set(objective.evaluate()) == {"validation_bits_per_byte"}
    assert objective.samples().startswith("ACT II.")
    assert objective.product() is objective.ema.model


def test_a_network_that_does_not_fit_the_tokens_is_refused(build):
    with pytest.raises(TrainingError, match=r"model\.config\.vocab_size is 300, data\.vocab_size 280"):
        build(model={"vocab_size": 300})
    with pytest.raises(TrainingError, match=r"max_length is 16, less than data\.window = 24"):
        build(model={"max_length": 16})


def test_a_network_that_reads_no_tokens_is_refused(recipe, raw_recipe, texts):
    with pytest.raises(TrainingError, match="ConvGenerator is not a sequence model"):
        LanguageObjective(recipe("language", model=raw_recipe("gan")["model"]), texts, CPU)


def test_texts_and_language_go_together(recipe, raw_recipe):
    for kind, other in (("gan", "language"), ("language", "gan")):
        with pytest.raises(TrainingError, match="go together"):
            recipe(kind, data=raw_recipe(other)["data"])


@pytest.fixture
def recurrent(recipe, raw_recipe):
    """A recipe for a recurrent network that reads words and forgets some of what it sees."""
    config = {"vocab_size": 280, "max_length": 64, "width": 16, "hidden": 24, "layers": 2, "dropout": 0.3}
    data = raw_recipe("language")["data"] | {"tokenizer": "words"}
    return recipe("language", data=data, model={"architecture": "gru", "config": config}, steps=8, gates={})


def test_a_recurrent_network_of_words_goes_on_bit_by_bit(recurrent, tmp_path):
    texts = load_text_dataset(recurrent.data)
    runs = []
    for name, last in (("whole", 8), ("broken", 5), ("broken", 8)):
        runs.append(Run(recurrent, tmp_path / name, texts))
        runs[-1].resume() if runs[-1].snapshot.exists() else runs[-1].start()
        runs[-1].train(lambda last=last: runs[-1].progress.step >= last, lambda progress, values: None)
    whole, _, again = runs
    for name, tensor in whole.objective.ema.model.state_dict().items():
        assert torch.equal(again.objective.ema.model.state_dict()[name], tensor), name


def test_words_are_learnt_like_bytes(recurrent):
    torch.manual_seed(0)
    texts = load_text_dataset(recurrent.data)
    objective = LanguageObjective(recurrent, texts, CPU)
    loader = Loader(texts.train, 16, seed=0)
    before = objective.evaluate()["validation_bits_per_byte"]
    for step in range(80):
        objective.train_step(loader.next(), step)
    assert objective.evaluate()["validation_bits_per_byte"] < before - 0.5
