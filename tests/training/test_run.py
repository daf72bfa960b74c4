import dataclasses
import json

import pytest
import torch

from training.errors import TrainingError
from training.run import pick_device
from training.snapshot import load_snapshot


def go(run, stop_at=None):
    """Train to the end, or until this many steps are done."""
    last = run.recipe.steps if stop_at is None else stop_at
    run.train(lambda: run.progress.step >= last, lambda progress, values: None)


def content(run):
    """The snapshot without what a clock put in."""
    state = load_snapshot(run.snapshot)
    del state["progress"]["seconds"]
    return state


def same(first, second, where="snapshot"):
    """Deep equality, tensors bit by bit; a difference is named."""
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for i, pair in enumerate(zip(first, second, strict=True)):
            same(*pair, f"{where}[{i}]")
    else:
        assert first == second, where


def lines(run):
    found = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


KINDS = ["classifier", "gan", "vae", "language", "audio", "vq", "text-to-image"]


@pytest.mark.parametrize("kind", KINDS)
def test_twenty_steps_are_ten_and_ten_more(make_run, recipe, kind):
    whole = make_run(recipe(kind), "whole")
    whole.start()
    go(whole)
    first = make_run(recipe(kind), "parts")
    first.start()
    go(first, stop_at=10)
    torch.manual_seed(999)  # whatever another process would have drawn
    second = make_run(recipe(kind), "parts")
    second.resume()
    assert second.progress.step == 10
    go(second)
    same(content(whole), content(second))
    assert lines(whole) == lines(second)


@pytest.mark.parametrize("kind", KINDS)
def test_a_snapshot_holds_every_moving_part(make_run, recipe, kind):
    """The proof above would be hollow if the compared files left something out."""
    run = make_run(recipe(kind))
    run.start()
    before = content(run)
    go(run)
    after = content(run)
    parts = {"networks", "optimizers", "ema", "loader", "random", "progress"}
    if kind in ("language", "audio"):
        parts.remove("random")  # it draws no noise
    for part in parts:
        with pytest.raises(AssertionError):
            same(before[part], after[part])
    assert after["networks"].keys() == run.objective.networks.keys()
    assert after["networks"].keys() - {"best", "tracker"} == after["optimizers"].keys()


def test_an_info_gan_that_looks_ahead_goes_on_as_if_it_had_not_stopped(make_run, recipe, raw_recipe):
    objective = raw_recipe("gan")["objective"]
    objective |= {"information": {"categories": 1.0, "codes": 0.5}, "unrolled": 2, "clip": 0.1}
    objective["discriminator"] = {"kind": "info", "categories": 3, "codes": 2, "channels": [8, 8], "image_size": 8}
    config = {"codes": 2, "latent_dim": 6, "num_classes": 3, "embedding_dim": 4, "channels": [8, 8], "base_size": 4}
    every = {"log": 1, "evaluate": 4, "snapshot": 3}
    changes = {
        "steps": 6,
        "every": every,
        "objective": objective,
        "model": {"architecture": "info-gan", "config": config},
    }
    whole = make_run(recipe("gan", **changes), "whole")
    whole.start()
    go(whole)
    first = make_run(recipe("gan", **changes), "parts")
    first.start()
    go(first, stop_at=4)
    torch.manual_seed(999)
    again = make_run(recipe("gan", **changes), "parts")
    again.resume()
    go(again)
    same(content(whole), content(again))


def test_a_killed_run_goes_on_from_its_last_snapshot(make_run, recipe):
    whole = make_run(recipe("vae"), "whole")
    whole.start()
    go(whole)
    killed = make_run(recipe("vae"), "killed")
    killed.start()

    def kill():
        if killed.progress.step == 17:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        killed.train(kill, lambda progress, values: None)
    assert lines(killed)[-1]["step"] == 16
    resumed = make_run(recipe("vae"), "killed")
    resumed.resume()
    assert resumed.progress.step == 14
    assert lines(resumed)[-1]["step"] == 14
    go(resumed)
    same(content(whole), content(resumed))
    assert lines(whole) == lines(resumed)


def test_evaluating_and_saving_more_often_changes_nothing(make_run, recipe):
    found = []
    for every in ({"log": 1, "evaluate": 3, "snapshot": 2}, {"log": 50, "evaluate": 50, "snapshot": 50}):
        run = make_run(recipe("gan", every=every), f"every {every['log']}")
        run.start()
        go(run, stop_at=9)
        found.append(content(run))
    first, second = found
    for state in found:
        del state["recipe"], state["networks"]["best"]  # which was the best is known only of those looked at
    same(first, second)


def test_another_seed_is_another_run(make_run, recipe):
    one, two = make_run(recipe("vae"), "one"), make_run(recipe("vae", seed=6), "two")
    assert not torch.equal(one.objective.ema.model.project.weight, two.objective.ema.model.project.weight)


def test_a_run_leaves_metrics_and_sample_grids(make_run, recipe):
    run = make_run(recipe("gan"))
    run.start()
    go(run)
    found = lines(run)
    assert [line["step"] for line in found if "d_loss" in line] == list(range(2, 21, 2))
    assert [line["step"] for line in found if "class_accuracy" in line] == [8, 16]
    assert sorted(path.name for path in (run.folder / "samples").iterdir()) == ["0000008.png", "0000016.png"]


def test_the_learning_rate_falls_from_the_recipes_to_zero(make_run, recipe):
    run = make_run(recipe("gan", learning_rate=0.001))
    run.start()
    rates = []

    def note(progress, values):
        rates.append(
            [group["lr"] for optimizer in run.objective.optimizers.values() for group in optimizer.param_groups]
        )

    run.train(lambda: run.finished, note)
    assert all(rate == rates[i][0] for i in range(20) for rate in rates[i])
    assert len(rates[0]) == 2
    falling = [rate[0] for rate in rates]
    assert falling[0] == 0.001
    assert falling == sorted(falling, reverse=True)
    assert falling[10] == pytest.approx(0.0005)
    assert falling[-1] < 0.00001


def test_starting_over_a_run_is_refused(make_run, recipe):
    make_run(recipe("vae")).start()
    with pytest.raises(TrainingError, match="holds a run already: --resume"):
        make_run(recipe("vae")).start()


def test_resuming_nothing_is_refused(make_run, recipe):
    with pytest.raises(TrainingError, match="no snapshot to resume from"):
        make_run(recipe("vae")).resume()


def test_resuming_with_another_recipe_is_refused_and_the_keys_named(make_run, recipe):
    make_run(recipe("vae")).start()
    with pytest.raises(TrainingError, match="differs in learning_rate, steps;"):
        make_run(recipe("vae", learning_rate=0.1, steps=30)).resume()
    make_run(recipe("vae", gates={"negative_elbo": {"max": 250}}, description="Better said.")).resume()


def test_a_snapshot_that_does_not_fit_is_refused(make_run, recipe):
    run = make_run(recipe("vae"))
    run.start()
    state = load_snapshot(run.snapshot)
    del state["ema"]
    torch.save(state, run.snapshot)
    with pytest.raises(TrainingError, match="does not fit this version"):
        make_run(recipe("vae")).resume()


class Poison:
    """Wraps a train step so that it breaks the network at given calls."""

    def __init__(self, run, calls):
        self.real, self.run, self.calls, self.seen = run.objective.train_step, run, calls, 0
        run.objective.train_step = self

    def __call__(self, batch, step):
        self.seen += 1
        found = self.real(batch, step)
        if self.seen in self.calls:
            next(iter(self.run.objective.networks.values())).project.weight.data.fill_(torch.nan)
            found["loss"] = torch.tensor(torch.nan)
        return found


def test_a_non_finite_loss_rolls_back_and_takes_another_way(make_run, recipe):
    run = make_run(recipe("vae"))
    run.start()
    poison = Poison(run, calls={10})
    go(run)
    assert poison.seen == 20 + 3  # steps 8 and 9 and the broken 10 were done again from step 7
    assert run.rollbacks.count == 1
    assert all(torch.isfinite(tensor).all() for tensor in run.objective.ema.state_dict().values())
    assert [line for line in lines(run) if "rolled_back_from_10" in line] == [{"step": 7, "rolled_back_from_10": 1.0}]
    clean = make_run(recipe("vae"), "clean")
    clean.start()
    go(clean)
    with pytest.raises(AssertionError):
        same(content(clean)["networks"], content(run)["networks"])


def test_roll_backs_are_bounded_and_survive_a_resumption(make_run, recipe):
    run = make_run(recipe("vae"))
    run.start()
    Poison(run, calls={10, 11})
    go(run, stop_at=9)
    go(run, stop_at=12)
    resumed = make_run(recipe("vae"))
    resumed.resume()
    assert resumed.rollbacks.count == run.rollbacks.count == 2
    Poison(resumed, calls={1})
    with pytest.raises(TrainingError, match="loss not finite, after 2 roll-backs"):
        go(resumed)
    assert all(torch.isfinite(tensor).all() for tensor in load_snapshot(resumed.snapshot)["ema"].values())


def test_weights_that_went_bad_never_reach_a_snapshot(make_run, recipe):
    run = make_run(recipe("vae"))
    run.start()
    go(run, stop_at=9)
    run.objective.networks["vae"].project.bias.data[0] = torch.inf
    run.save()
    assert run.progress.step == 9
    assert run.rollbacks.count == 1
    assert all(torch.isfinite(tensor).all() for tensor in load_snapshot(run.snapshot)["networks"]["vae"].values())


def test_a_collapse_ends_the_run(make_run, recipe):
    run = make_run(recipe("gan", every={"log": 1, "evaluate": 1, "snapshot": 50}))
    run.start()
    shares = iter([0.9, 0.1, 0.0])
    run.objective.evaluate = lambda: {"min_class_share": next(shares)}
    with pytest.raises(TrainingError, match="step 3: collapsed"):
        go(run)


@pytest.mark.parametrize(("half", "remainders"), [("both", {0, 1}), ("even", {0}), ("odd", {1})])
def test_a_classifier_sees_the_half_of_its_recipe_alone(make_run, recipe, raw_recipe, dataset, half, remainders):
    run = make_run(recipe("classifier", objective=raw_recipe("classifier")["objective"] | {"half": half}))
    dealt = torch.cat([run.loader.next().samples for _ in range(12)])
    everything = dataset.train.batch(torch.arange(len(dataset.train))).samples
    numbers = {int((everything == picture).flatten(1).all(1).nonzero()[0]) for picture in dealt}
    assert {number % 2 for number in numbers} == remainders


def test_a_gate_on_an_unknown_metric_is_refused_before_training(make_run, recipe):
    with pytest.raises(TrainingError, match=r"gates\.negative_elbo"):
        make_run(recipe("gan", gates={"negative_elbo": {"max": 250}}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_that_is_not_there_is_refused():
    with pytest.raises(TrainingError, match="no CUDA"):
        pick_device("cuda")
    assert pick_device("auto") == torch.device("cpu")


class Spoil:
    """Wraps a train step so that it spoils weights at one call, and says nothing of it."""

    def __init__(self, run, call):
        self.real, self.run, self.call, self.seen = run.objective.train_step, run, call, 0
        run.objective.train_step = self

    def __call__(self, batch, step):
        self.seen += 1
        found = self.real(batch, step)
        if self.seen == self.call:
            next(iter(self.run.objective.networks.values())).project.weight.data.fill_(torch.nan)
        return found


@pytest.mark.parametrize("when", ["evaluate", "end"])
def test_weights_that_went_bad_in_silence_are_neither_measured_nor_an_end(make_run, recipe, when):
    every = {"log": 5, "evaluate": 6 if when == "evaluate" else 50, "snapshot": 4}
    run = make_run(recipe("vae", steps=10, every=every))
    run.start()
    Spoil(run, call=6 if when == "evaluate" else 10)
    go(run)
    assert run.finished
    assert run.rollbacks.count == 1
    state = load_snapshot(run.snapshot)
    assert state["progress"]["step"] == 10
    assert all(torch.isfinite(tensor).all() for tensor in state["ema"].values())


def test_a_run_goes_on_with_its_own_data_only(make_run, recipe):
    run = make_run(recipe("vae"))
    run.start()
    go(run, stop_at=4)
    other = make_run(recipe("vae"))
    other.dataset = dataclasses.replace(other.dataset, sha256={**other.dataset.sha256, "x": "0"})
    with pytest.raises(TrainingError, match=r"made with other data than those in data\.path"):
        other.resume()
