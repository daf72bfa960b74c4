"""Controls over HTTP: shown with the model, applied to the picture, refused as a problem that names them."""

import dataclasses

import numpy as np
import pytest

from app import latents
from models.config import read_config, write_config
from tests import fakes
from tests.app.routes.test_images import pixels, story
from tests.conftest import running

URL = "/v1/images/generate"
CONTROLS = {"code_0": {"index": 3, "min": -1.0, "max": 1.0, "description": "the last stripe"}}


@pytest.fixture
async def client(settings, weights):
    folder = fakes.write(weights, "steered")
    config = read_config(folder, fakes.LATENT)
    write_config(folder, dataclasses.replace(config, controls=CONTROLS))
    async with running(settings()) as client:
        yield client


async def test_a_model_shows_its_controls(client):
    listed = {model["id"]: model["genserve"] for model in (await client.get("/v1/models")).json()["data"]}
    assert listed["steered"]["controls"] == CONTROLS
    assert listed["echo"]["controls"] == {}
    assert listed["steered"]["digest"] != listed["echo"]["digest"]


async def test_a_control_is_painted_and_told(client):
    asked = {"model": "steered", "seed": 5, "label": 2, "controls": {"code_0": 0.75}}
    response = await client.post(URL, json=asked)
    z = latents.from_seed(5, (4,), 10)[0].copy()
    z[3] = 0.75
    np.testing.assert_array_equal(pixels(response.content), fakes.echo(z[None], np.array([2]))[0])
    _, parameters = story(response.content)
    assert parameters == {"seed": 5, "label": 2, "controls": {"code_0": 0.75}}
    again = await client.post(URL, json={"model": "steered", **parameters})
    assert again.content == response.content


@pytest.mark.parametrize(
    ("model", "controls", "field", "said"),
    [
        ("echo", {"code_0": 0.5}, "controls", "controls: echo has none"),
        ("steered", {"code_9": 0.5}, "controls.code_9", "controls.code_9: steered has code_0"),
        ("steered", {"code_0": 1.5}, "controls.code_0", "controls.code_0: 1.5 is not from -1 to 1"),
        ("steered", {"code_0": "high"}, "controls.code_0", ""),
        ("steered", [0.5], "controls", ""),
    ],
)
async def test_what_can_not_be_set_is_refused_and_named(client, model, controls, field, said):
    response = await client.post(URL, json={"model": model, "controls": controls})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["code"], problem["field"]) == ("invalid_field", field)
    assert said in problem["detail"]
