"""Named numbers of a latent: the right entry of every row, told in the story, and refused where they make no sense."""

import dataclasses

import numpy as np
import pytest
from pydantic import ValidationError

from app.controls import steer
from app.engine.jobs import ModelInfo
from app.errors import InvalidField
from app.plan import plan_images
from app.schemas.images import ImageRequest

CONTROLS = {
    "code_0": {"index": 4, "min": -2.0, "max": 2.0, "description": "dark to light"},
    "code_1": {"index": 1, "min": 0.0, "max": 10, "description": ""},
}
INFO = ModelInfo("m", digest="0" * 64, latent_shape=(5,), num_classes=3, controls=CONTROLS)
PLAIN = dataclasses.replace(INFO, name="p", controls={})


def plan(info=INFO, **fields):
    return plan_images(ImageRequest(**fields), info)


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 3, "n": 4},
        {"seed": 3, "truncation": 0.5},
        {"interpolate": {"from_seed": 1, "to_seed": 2, "steps": 5}},
        {"mix": [{"seed": 1}, {"seed": 2, "weight": 3}]},
        {"latents": [0.5, 0.25, 3, 4, 5]},
    ],
)
def test_every_way_to_latents_takes_controls_last(fields):
    free, steered = plan(**fields), plan(**fields, controls={"code_0": 1.5, "code_1": 7})
    np.testing.assert_array_equal(steered.job.inputs[:, [4, 1]], [[1.5, 7]] * free.job.rows)
    np.testing.assert_array_equal(steered.job.inputs[:, [0, 2, 3]], free.job.inputs[:, [0, 2, 3]])
    assert steered.labels == free.labels
    for with_, without in zip(steered.parameters, free.parameters, strict=True):
        assert with_ == {**without, "controls": {"code_0": 1.5, "code_1": 7}}


def test_a_sheet_tells_them_once():
    assert plan(seed=3, n=2, label=1, controls={"code_0": -2}).sheet_provenance().parameters == {
        "seed": 3,
        "controls": {"code_0": -2.0},
        "label": 1,
        "grid": 2,
    }


def test_no_controls_are_no_controls():
    for info in (INFO, PLAIN):
        found = plan(info, seed=3, controls={})
        np.testing.assert_array_equal(found.job.inputs, plan(info, seed=3).job.inputs)
        assert "controls" not in found.parameters[0]


@pytest.mark.parametrize(
    ("info", "asked", "field", "said"),
    [
        (PLAIN, {"code_0": 1.0}, "controls", "controls: p has none"),
        (INFO, {"code_2": 1.0}, "controls.code_2", "controls.code_2: m has code_0, code_1"),
        (INFO, {"code_0": 2.1}, "controls.code_0", "controls.code_0: 2.1 is not from -2 to 2"),
        (INFO, {"code_1": -0.5}, "controls.code_1", "controls.code_1: -0.5 is not from 0 to 10"),
        (INFO, {"code_0": float("nan")}, "controls.code_0", "controls.code_0: nan is not from -2 to 2"),
    ],
)
def test_what_a_model_has_not_is_refused_by_name(info, asked, field, said):
    with pytest.raises(InvalidField) as caught:
        steer(np.zeros((1, 5), np.float32), asked, info)
    assert (caught.value.field, str(caught.value)) == (field, said)


@pytest.mark.parametrize(
    "asked",
    [
        [1.0],
        "code_0",
        {"code_0": "1"},
        {"code_0": True},
        {"code_0": None},
        {"code_0": float("inf")},
        {"": 1.0},
        {"c" * 65: 1.0},
        {f"c{i}": 1.0 for i in range(65)},
    ],
)
def test_a_request_holds_names_and_numbers(asked):
    with pytest.raises(ValidationError):
        ImageRequest(controls=asked)
