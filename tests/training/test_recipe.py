import copy
import json
from pathlib import Path

import pytest

from training.errors import TrainingError
from training.gate import Gate
from training.objective_recipe import GanRecipe
from training.recipe import parse_recipe, read_recipe

RECIPES = Path(__file__).parents[2] / "training" / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_committed_recipes_are_valid_and_named_like_their_files(path):
    assert read_recipe(path).name == path.stem


def test_there_are_recipes_for_the_committed_weights():
    assert {path.stem for path in RECIPES.glob("*.toml")} >= {"fashion-gan", "fashion-vae", "fashion-judge"}


def test_values_arrive_with_their_types(raw_recipe):
    recipe = parse_recipe({**raw_recipe("gan"), "learning_rate": 1, "gates": {"fd_clf": {"max": 25}}})
    assert isinstance(recipe.learning_rate, float)
    assert isinstance(recipe.objective, GanRecipe)
    assert recipe.objective.betas == (0.0, 0.99)
    assert recipe.data.labels == ("left", "right", "bottom")
    assert recipe.gates == {"fd_clf": Gate("max", 25.0)}


@pytest.mark.parametrize("kind", ["classifier", "gan", "vae", "language", "vq", "text-to-image", "audio"])
def test_a_recipe_survives_json(raw_recipe, kind):
    recipe = parse_recipe({**raw_recipe(kind), "gates": {"class_accuracy": {"min": 0.5}}})
    assert parse_recipe(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_captioned_pictures_go_with_the_objectives_that_read_them(raw_recipe):
    for kind, other in (("vq", "gan"), ("gan", "vq"), ("text-to-image", "vae")):
        with pytest.raises(TrainingError, match=r'data\.kind = "captioned" goes with objective\.kind = "vq"'):
            parse_recipe({**raw_recipe(kind), "data": raw_recipe(other)["data"]})
    crossed = parse_recipe({**raw_recipe("vq"), "data": raw_recipe("text-to-image")["data"]})
    assert crossed.data.labels == ()


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("vq", "data.held_out", 0.0),
        ("vq", "data.held_out", 1.0),
        ("vq", "data.scenes", 0),
        ("vq", "data.emoji_captions", -1),
        ("vq", "data.rarest", 0),
        ("vq", "data.first_word", 0),
        ("vq", "data.caption_length", 0),
        ("vq", "data.seed", -1),
        ("vq", "objective.commitment", -0.1),
        ("vq", "objective.decay", 1.0),
        ("vq", "objective.rarest", -1.0),
        ("vq", "objective.restart_until", -1),
        ("text-to-image", "objective.caption_dropout", 1.0),
        ("text-to-image", "objective.warmup", -1),
        ("text-to-image", "objective.clip", 0.0),
        ("text-to-image", "objective.guidance", [1.0, -1.0]),
        ("text-to-image", "objective.guidance", []),
        ("text-to-image", "objective.betas", [0.9, 1.0]),
        ("text-to-image", "objective.weight_decay", -1.0),
        ("vae", "objective.betas", [-0.1, 0.9]),
        ("classifier", "objective.label_smoothing", 1.0),
        ("audio", "data.hop", 0),
        ("audio", "data.hop", 201),
        ("audio", "data.window", 0),
        ("audio", "data.window", 410),  # ten frames and a quarter
        ("audio", "data.held_out_share", 1.0),
        ("audio", "objective.ear_weight", -0.1),
    ],
)
def test_numbers_of_recipes_have_their_ranges(raw_recipe, kind, key, value):
    raw = raw_recipe(kind)
    table, _, last = key.partition(".")
    raw[table][last] = value
    with pytest.raises(TrainingError, match=f"{key} is out of range"):
        parse_recipe(raw)


@pytest.mark.parametrize(
    "key", ["seed", "data.path", "objective.gamma", "every.log", "model.architecture", "guards.max_rollbacks"]
)
def test_a_missing_key_is_named(raw_recipe, key):
    raw = raw_recipe("gan")
    table, _, last = key.rpartition(".")
    del (raw[table] if table else raw)[last]
    with pytest.raises(TrainingError, match=f"missing key {key}"):
        parse_recipe(raw)


@pytest.mark.parametrize("key", ["sede", "data.paht", "objective.gama", "every.logs"])
def test_an_unknown_key_is_named(raw_recipe, key):
    raw = raw_recipe("gan")
    table, _, last = key.rpartition(".")
    (raw[table] if table else raw)[last] = 1
    with pytest.raises(TrainingError, match=f"unknown key {key} .known: "):
        parse_recipe(raw)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("steps", "20", "steps must be int, got '20'"),
        ("steps", True, "steps must be int, got True"),
        ("steps", 2.0, "steps must be int"),
        ("steps", 0, "steps is out of range: 0"),
        ("seed", -1, "seed is out of range"),
        ("ema_decay", 1.0, "ema_decay is out of range"),
        ("learning_rate", float("nan"), "learning_rate is out of range"),
        ("precision", "fp8", "precision must be one of bf16, fp32, got 'fp8'"),
        ("precision", ["bf16"], "precision must be one of"),
        ("name", 3, "name must be str"),
        ("data", 3, "data: a table expected"),
        ("objective", {"kind": "diffusion"}, "objective.kind must be one of classifier, gan, vae.* got 'diffusion'"),
        ("objective", {"kind": []}, "objective.kind must be one of"),
        ("objective", 1, "objective.kind must be one of"),
        ("model", {"architecture": "conv-gan", "config": 3}, "model.config must be a table"),
        ("gates", {"fd_clf": 25}, r"gates.fd_clf must be \{min = x\} or \{max = x\}"),
        ("gates", {"fd_clf": {"below": 25}}, "gates.fd_clf must be"),
        ("gates", {"fd_clf": {"max": "x"}}, "gates.fd_clf.max must be float"),
    ],
)
def test_a_wrong_value_is_named(raw_recipe, key, value, message):
    with pytest.raises(TrainingError, match=message):
        parse_recipe({**raw_recipe("gan"), key: value})


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        ([0.9], "objective.betas must have 2 entries, got 1"),
        (0.9, "objective.betas must be an array"),
        ([0.9, "x"], r"objective.betas\[1\] must be float"),
    ],
)
def test_a_wrong_array_is_named(raw_recipe, betas, message):
    raw = copy.deepcopy(raw_recipe("gan"))
    raw["objective"]["betas"] = betas
    with pytest.raises(TrainingError, match=message):
        parse_recipe(raw)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("unrolled", -1),
        ("unrolled", 101),
        ("clip", -0.5),
        ("clip", float("nan")),
        ("information", {"categories": -1.0, "codes": 0.0}),
        ("information", {"categories": 0.0, "codes": float("nan")}),
    ],
)
def test_a_gan_s_tools_are_bounded(raw_recipe, key, value):
    raw = copy.deepcopy(raw_recipe("gan"))
    raw["objective"][key] = value
    with pytest.raises(TrainingError, match=rf"objective\.{key}.* is out of range"):
        parse_recipe(raw)


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "x.toml"
    with pytest.raises(TrainingError, match=r"x\.toml: no such recipe"):
        read_recipe(path)
    path.write_text("seed = = 1")
    with pytest.raises(TrainingError, match=r"x\.toml: not readable as TOML"):
        read_recipe(path)
    path.write_text("seed = 1")
    with pytest.raises(TrainingError, match=r"x\.toml: missing key name"):
        read_recipe(path)


def test_changes_replace_values_of_the_file(recipe_file):
    found = read_recipe(recipe_file("gan"), ['objective.loss = "hinge"', "steps=7", "objective.augment.shift = 3"])
    assert (found.objective.loss, found.steps, found.objective.augment.shift) == ("hinge", 7, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stepz=7", "no key stepz"),
        ("steps.more=7", "no key steps.more"),
        ("nowhere.steps=7", "no key nowhere.steps"),
        ("steps", "not TOML"),
        ("name=hinge", "not TOML"),
        ('steps="7"', "steps must be int"),
        ("objective.gamma=-1", "objective.gamma is out of range"),
        ('objective.loss="hing"', "objective.loss must be one of"),
        ("objective.augment.mirror=0.5", "objective.augment.mirror is out of range"),
    ],
)
def test_a_change_that_does_not_fit_is_refused(recipe_file, change, message):
    with pytest.raises(TrainingError, match=message):
        read_recipe(recipe_file("gan"), [change])
