"""Training that starts from a weights folder."""

import json
import shutil

import pytest
import torch

from models.config import read_config
from training.errors import TrainingError
from training.origin import load_origin
from training.publish import publish
from training.run import Run
from training.text import load_text_dataset
from training.train import main as train_main
from training.writer import load_writer

QUICK = {"steps": 6, "every": {"log": 6, "evaluate": 6, "snapshot": 6}}


@pytest.fixture
def origin(make_run, recipe, tmp_path):
    """The weights folder of a tiny language model."""
    run = make_run(recipe("language", **QUICK), "first")
    run.start()
    run.train(lambda: run.finished, lambda progress, values: None)
    publish(run, "tiny.toml")
    return tmp_path / "export" / "tiny-language"


@pytest.fixture
def second(raw_recipe, recipe, text_folder, tmp_path, origin):
    """A recipe for other texts that starts from it."""
    texts = tmp_path / "second"
    texts.mkdir()
    for path in text_folder.iterdir():
        (texts / path.name).write_text(path.read_text().replace("king", "devil"))

    def make(name=str(origin), **changes):
        data = raw_recipe("language")["data"] | {"path": str(texts)}
        export = str(tmp_path / "export" / "second")
        return recipe("language", **{**QUICK, "export": export, "data": data, "finetune": {"from": name}} | changes)

    return make


def start(made, folder):
    return Run(made, folder, load_text_dataset(made.data, load_origin(made)))


def test_it_starts_from_the_weights_and_reads_with_their_tokenizer(second, origin, tmp_path):
    run = start(second(), tmp_path / "run")
    first = load_writer(origin)
    for network in (run.objective.networks["language"], run.objective.ema.model):
        for name, tensor in first.network.state_dict().items():
            assert torch.equal(network.state_dict()[name], tensor), name
    assert all(parameter.requires_grad for parameter in run.objective.networks["language"].parameters())
    assert run.dataset.tokenizer.to_str() == first.tokenizer.to_str()
    assert "devil" in run.dataset.tokenizer.decode(run.dataset.train.tokens[:200].tolist())


def test_the_card_says_what_it_started_from_and_what_that_was_worth(second, origin, tmp_path):
    run = start(second(), tmp_path / "run")
    run.start()
    run.train(lambda: run.finished, lambda progress, values: None)
    publish(run, "second.toml")
    config = read_config(tmp_path / "export" / "second")
    name = f"tiny-language@{load_writer(origin).digest}"
    assert config.card["origin"] == name
    assert config.card["metrics"]["origin_bits_per_byte"] > config.card["metrics"]["bits_per_byte"]
    readme = (tmp_path / "export" / "second" / "README.md").read_text()
    assert f"| starts from | `{name}` |" in readme
    assert "before this training" in readme


def test_a_stopped_run_goes_on_bit_by_bit(second, tmp_path):
    whole, broken = (start(second(), tmp_path / name) for name in ("whole", "broken"))
    for run, last in ((whole, 6), (broken, 3)):
        run.start()
        run.train(lambda: run.progress.step >= last, lambda progress, values: None)  # noqa: B023  # called at once
    again = start(second(), tmp_path / "broken")
    again.resume()
    again.train(lambda: again.finished, lambda progress, values: None)
    for name, tensor in whole.objective.ema.model.state_dict().items():
        assert torch.equal(again.objective.ema.model.state_dict()[name], tensor), name


def test_an_empty_name_means_fresh_weights(second, recipe, raw_recipe):
    assert load_origin(second("")) is None
    assert load_origin(recipe("language")) is None
    assert second("").as_dict()["finetune"] == {"from": ""}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"architecture": "gru"}, r"finetune\.from: .*tiny-language is a gpt, model\.architecture gru"),
        ({"config": {"width": 32}}, r"finetune\.from: model\.config\.width is 32, .*tiny-language's 16"),
        ({"config": {"scale": 2}}, r"model\.config\.scale is 2, .*tiny-language's not given"),
    ],
)
def test_another_network_is_refused(second, raw_recipe, model, message):
    own = raw_recipe("language")["model"]
    changed = {**own, **model, "config": own["config"] | model.get("config", {})}
    with pytest.raises(TrainingError, match=message):
        load_origin(second(model=changed))


def test_tokens_of_another_kind_are_refused(second, raw_recipe):
    made = second(data=raw_recipe("language")["data"] | {"tokenizer": "words"})
    with pytest.raises(TrainingError, match=r"the tokens of tiny-language are bytes, data\.tokenizer words"):
        load_text_dataset(made.data, load_origin(made))


def test_a_vocabulary_of_another_size_is_refused(second, raw_recipe, tmp_path):
    model = raw_recipe("language")["model"]
    made = second(data=raw_recipe("language")["data"] | {"vocab_size": 270}, model=model)
    with pytest.raises(TrainingError, match=r"data\.vocab_size is 270, the tokenizer of tiny-language has 280"):
        start(made, tmp_path / "run")


def test_folders_that_are_not_there_or_damaged_are_named(second, origin, tmp_path, recipe_file, capsys):
    with pytest.raises(TrainingError, match=r"nobody: no weights folder"):
        load_origin(second("nobody"))
    broken = shutil.copytree(origin, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"")
    assert train_main([str(recipe_file("language", finetune={"from": str(broken)}))]) == 1
    assert "error: finetune.from: " in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"from": 3}, {"form": "x"}, {}, "x", {"from": "x", "steps": 1}])
def test_a_table_of_another_shape_is_refused(recipe, wrong):
    with pytest.raises(TrainingError, match=r"finetune must be \{from = NAME\}"):
        recipe("language", finetune=wrong)


def test_other_objectives_start_from_nothing(recipe):
    with pytest.raises(TrainingError, match=r'finetune goes with objective\.kind = "language" alone'):
        recipe("gan", finetune={"from": "fashion-gan"})


def test_a_recipe_comes_back_from_its_record(second):
    made = second()
    from training.recipe import parse_recipe

    assert parse_recipe(json.loads(json.dumps(made.as_dict()))) == made
