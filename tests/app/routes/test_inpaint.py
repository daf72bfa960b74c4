"""A picture with a hole in, a filled one out; and pictures that are sampled by a critic."""

import asyncio
import base64

import numpy as np
import pytest
import torch

import tests.fake_refiners as fake_refiners
from app.codecs import AI_EDITED
from app.plan import SAMPLER_STEPS
from models import checkpoint
from models.gan import ConvDiscriminator, ConvGenerator
from tests import fakes
from tests.app.routes.test_encode import bomb, file_of
from tests.app.routes.test_images import pixels, story
from tests.conftest import running
from tests.serving import eventually

INPAINT, GENERATE = "/v1/images/inpaint", "/v1/images/generate"
NETWORK = {"latent_dim": 6, "num_classes": 3, "embedding_dim": 4, "channels": (16, 8), "base_size": 4}
CRITIC = {"num_classes": 3, "channels": [8, 16], "image_size": 8}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "refined"


@pytest.fixture
def refined_settings(settings, folder, tmp_path):
    """The picture of "filler" is its latent, and it has a critic; "plain" encodes; "stairs" has no gradients."""
    gate = tmp_path / "steps-gate"
    fake_refiners.write(folder, "filler", num_classes=0, steps_gate=str(gate), count=str(tmp_path / "steps"))
    fakes.write(folder, "plain", "echo-encoder")
    fakes.write(folder, "stairs", "rounds")
    return lambda **fields: settings(weights=folder, models_module="tests.fake_refiners", **fields)


@pytest.fixture
async def client(refined_settings):
    async with running(refined_settings()) as client:
        yield client


def filling(content):
    """The story of a filled picture, which is not all generated, and says so."""
    return story(content, AI_EDITED)[1]["inpaint"]


def b64(content):
    return base64.b64encode(content).decode()


def known_picture():
    """What "filler" makes of a latent: its upper half tells the whole of it."""
    return fakes.echo(np.array([[0.5, -0.5, 0.2, -0.2]], np.float32), np.zeros(1, int), num_classes=0)[0]


def lower_half():
    mask = np.zeros((4, 4), np.uint8)
    mask[2:] = 255
    return mask


def body(**fields):
    asked = {"image": b64(file_of(known_picture()[..., 0])), "mask": b64(file_of(lower_half())), "seed": 3}
    return {key: value for key, value in {**asked, **fields}.items() if value is not None}


async def test_a_hole_is_filled_with_what_the_rest_says(client):
    holed = np.where(lower_half() > 0, 77, known_picture()[..., 0]).astype(np.uint8)  # what is masked is not looked at
    response = await client.post(INPAINT, json=body(image=b64(file_of(holed)), steps=200))
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-genserve-seed"] == "3"
    made = pixels(response.content)[..., :1].astype(int)
    np.testing.assert_array_equal(made[:2], known_picture()[:2])
    assert np.abs(made[2:] - known_picture()[2:]).mean() < 25, "the prior pulls a little"
    info = client.app.state.engine.models["filler"]
    assert response.headers["x-genserve-model"] == info.identity
    assert filling(response.content) == {"seed": 3, "steps": 200, "filled": 8, "critic": info.critic[:12]}


async def test_the_same_in_every_form_and_each_time(client):
    first = await client.post(INPAINT, json=body(steps=5))
    assert first.status_code == 200
    rgba = np.dstack([known_picture()[..., 0]] * 3 + [255 - lower_half()])
    query = {"steps": "5", "seed": "3", "model": "filler"}
    raw = await client.post(INPAINT, content=file_of(rgba), params=query, headers={"Content-Type": "image/png"})
    assert raw.content == first.content
    again = await asyncio.gather(*(client.post(INPAINT, json=body(steps=5, seed=seed)) for seed in (3, 4, 3)))
    assert [response.content == first.content for response in again] == [True, False, True]
    drawn = await client.post(INPAINT, json=body(steps=5, seed=None))
    seed = int(drawn.headers["x-genserve-seed"])
    assert (await client.post(INPAINT, json=body(steps=5, seed=seed))).content == drawn.content


async def test_in_every_wrapping(client):
    answer = await client.post(INPAINT, json=body(steps=2, scale=2), headers={"Accept": "application/json"})
    (item,) = answer.json()["images"]
    assert (item["seed"], item["label"]) == (3, None)
    assert pixels(base64.b64decode(item["base64"])).shape[:2] == (8, 8)
    webp = await client.post(INPAINT, json=body(steps=2, format="webp"))
    assert webp.headers["content-type"] == "image/webp"


async def test_a_model_with_classes_finds_the_one_that_fits(client):
    """The first pixel of "plain" is its label's."""
    picture = fakes.echo(np.array([[0.0, 0.3, -0.3, 0.1]], np.float32), np.array([7]))[0]
    fields = {"model": "plain", "image": b64(file_of(picture[..., 0])), "steps": 60}
    found = await client.post(INPAINT, json=body(**fields))
    assert filling(found.content)["label"] == 7
    told = await client.post(INPAINT, json=body(**fields, label="kind 2"))
    assert filling(told.content)["label"] == 2
    np.testing.assert_array_equal(pixels(told.content)[:2, :, :1], picture[:2])
    assert (await client.post(INPAINT, json=body(**fields, label=10))).json()["field"] == "label"


@pytest.mark.parametrize(
    ("fields", "status", "code", "field"),
    [
        ({"mask": b64(file_of(np.zeros((4, 4), np.uint8)))}, 400, "invalid_field", "mask"),
        ({"mask": b64(file_of(np.full((4, 4), 255, np.uint8)))}, 400, "invalid_field", "mask"),
        ({"mask": b64(file_of(np.zeros((5, 4), np.uint8)))}, 400, "invalid_field", "mask"),
        ({"mask": b64(file_of(np.zeros((8, 8), np.uint8)))}, 400, "invalid_field", "mask"),
        ({"mask": b64(file_of(lower_half())[:40])}, 400, "invalid_picture", "mask"),
        ({"mask": b64(b"GIF89a....")}, 415, "unsupported_media_type", "mask"),
        ({"mask": b64(bomb(60_000, 60_000))}, 413, "picture_too_large", "mask"),
        ({"mask": "?"}, 400, "invalid_field", "mask"),
        ({"mask": ""}, 400, "invalid_field", "mask"),
        ({"mask": None}, 400, "invalid_field", "image"),  # nothing is transparent
        ({"image": None}, 400, "invalid_field", "image"),
        ({"image": b64(bomb(60_000, 60_000))}, 413, "picture_too_large", None),
        ({"steps": 0}, 400, "invalid_field", "steps"),
        ({"steps": 201}, 400, "invalid_field", "steps"),
        ({"steps": 2.5}, 400, "invalid_field", "steps"),
        ({"seed": 2**53 - 1}, 400, "invalid_field", "seed"),
        ({"label": 1}, 400, "invalid_field", "label"),  # the model is unconditional
        ({"n": 2}, 400, "unknown_field", "n"),
        ({"scale": 65}, 400, "invalid_field", "scale"),
        ({"model": "stairs"}, 404, "model_not_found", "model"),
        ({"model": "nope"}, 404, "model_not_found", "model"),
    ],
)
async def test_refusals(client, fields, status, code, field):
    response = await client.post(INPAINT, json=body(**fields))
    problem = response.json()
    assert (response.status_code, problem["code"], problem.get("field")) == (status, code, field), response.text
    assert len(response.content) < 2000


async def test_masks_of_any_kind_are_read(client):
    """By their brightness; of the same picture when it is upright."""
    grey = lower_half()
    wanted = (await client.post(INPAINT, json=body(steps=2))).content
    for mask in (np.dstack([grey] * 3), np.dstack([grey] * 4), grey > 0):
        assert (await client.post(INPAINT, json=body(steps=2, mask=b64(file_of(mask))))).content == wanted
    large = np.kron(grey, np.ones((4, 4), np.uint8)), np.kron(known_picture()[..., 0], np.ones((4, 4), np.uint8))
    fields = {"mask": b64(file_of(large[0])), "image": b64(file_of(large[1])), "steps": 2}
    assert (await client.post(INPAINT, json=body(**fields))).content == wanted


async def test_models_that_know_transparency_want_a_mask(settings, tmp_path):
    fakes.write(tmp_path / "clear", "clear", image_channels=4, num_classes=0)
    async with running(settings(weights=tmp_path / "clear")) as client:
        picture = b64(file_of(np.full((4, 4, 4), 99, np.uint8)))
        refused = await client.post(INPAINT, json={"image": picture})
        assert (refused.status_code, refused.json()["field"]) == (400, "mask")
        assert (await client.post(INPAINT, json=body(image=picture, steps=2))).status_code == 200


async def test_a_client_that_leaves_ends_its_search(client, tmp_path):
    """Its rows are gone after the tick that runs: the file counts every step."""
    gate, steps = tmp_path / "steps-gate", tmp_path / "steps"
    gate.touch()
    search = asyncio.ensure_future(client.post(INPAINT, json=body(steps=200)))
    await eventually(lambda: fakes.held(gate).exists())
    search.cancel()
    await asyncio.gather(search, return_exceptions=True)
    engine = client.app.state.engine
    await eventually(lambda: engine.in_flight == 0)
    lane = engine._lanes[0]
    await eventually(lambda: not lane.departed)
    gate.unlink()
    assert (await client.post(GENERATE, json={"model": "filler"})).status_code == 200
    count = client.app.state.telemetry.registry.get_sample_value
    assert count("genserve_cancelled_total", {"model": "filler/inpaint"}) == 1
    assert count("genserve_refined_total", {"model": "filler", "way": "inpaint"}) == 0
    assert steps.read_text() == "step\n"


async def test_a_picture_is_answered_while_a_search_runs(refined_settings, tmp_path):
    """It is held in one of its steps, and another thread answers."""
    gate = tmp_path / "steps-gate"
    async with running(refined_settings(threads=2)) as client:
        gate.touch()
        search = asyncio.ensure_future(client.post(INPAINT, json=body(steps=200)))
        await eventually(lambda: fakes.held(gate).exists())
        for _ in range(3):
            assert (await client.post(GENERATE, json={"model": "filler"})).status_code == 200
        assert not search.done()
        gate.unlink()
        assert (await search).status_code == 200


async def test_a_search_that_has_no_time_left(client):
    late = await client.post(INPAINT, json=body(steps=200), headers={"X-Request-Timeout": "0.001"})
    assert late.status_code in (429, 504)


async def test_the_answer_s_size_is_bounded_before_compute(refined_settings):
    async with running(refined_settings(max_pixels=1024)) as client:
        refused = await client.post(INPAINT, json=body(scale=9))
        assert (refused.status_code, refused.json()["field"]) == (400, "scale")
        count = client.app.state.telemetry.registry.get_sample_value
        assert not count("genserve_images_total", {"model": "filler"})


@pytest.fixture
async def gan_client(settings, folder):
    """A real network with a real critic, both untrained."""
    torch.manual_seed(0)
    checkpoint.save(folder / "gan", ConvGenerator(**NETWORK), architecture="conv-gan", config=NETWORK)
    network = ConvDiscriminator(**CRITIC)
    checkpoint.write_critic(
        folder / "gan", network, architecture="conv", config=CRITIC, scale=30.0, step_size=0.1, card={}
    )
    fakes.write(folder, "plain")
    async with running(settings(weights=folder, dtype="auto")) as client:
        yield client


async def test_sampled_pictures_keep_the_seed_contract(gan_client):
    """Alone, in a batch, and beside others: the same bytes."""
    asked = {"model": "gan", "sampler": "mcmc", "steps": 6, "label": 1}

    async def bytes_of(**fields):
        response = await gan_client.post(GENERATE, json={**asked, **fields})
        assert response.status_code == 200, response.text
        return response.content

    alone = [await bytes_of(seed=seed) for seed in range(20, 25)]
    assert len(set(alone)) == 5
    batch = await gan_client.post(GENERATE, json={**asked, "seed": 20, "n": 5}, headers={"Accept": "application/json"})
    assert [base64.b64decode(item["base64"]) for item in batch.json()["images"]] == alone
    crowd = await asyncio.gather(
        *(bytes_of(seed=seed) for seed in range(20, 25)), bytes_of(seed=900, n=7, steps=11), bytes_of(seed=7, steps=1)
    )
    assert crowd[:5] == alone
    plain = await gan_client.post(GENERATE, json={"model": "gan", "seed": 20, "label": 1})
    assert (pixels(plain.content) != pixels(alone[0])).any()
    info = gan_client.app.state.engine.models["gan"]
    told = {"seed": 20, "label": 1, "sampler": "mcmc", "steps": 6, "critic": info.critic[:12]}
    assert story(alone[0]) == (info.identity, told)


async def test_sampling_and_cards(gan_client):
    made = await gan_client.post(GENERATE, json={"model": "gan", "sampler": "mcmc"})
    assert story(made.content)[1]["steps"] == SAMPLER_STEPS
    card = (await gan_client.get("/v1/models/gan")).json()["genserve"]
    assert (len(card["critic"]), card["inpaints"]) == (64, True)
    plain = (await gan_client.get("/v1/models/plain")).json()["genserve"]
    assert (plain["critic"], plain["inpaints"]) == (None, True)
    count = gan_client.app.state.telemetry.registry.get_sample_value
    assert count("genserve_refined_total", {"model": "gan", "way": "mcmc"}) == 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"model": "plain", "sampler": "mcmc"}, "sampler"),
        ({"sampler": "gibbs"}, "sampler"),
        ({"steps": 5}, "steps"),
        ({"sampler": "mcmc", "steps": 201}, "steps"),
        ({"sampler": "mcmc", "steps": 0}, "steps"),
        ({"sampler": "mcmc", "truncation": 0.5}, "truncation"),
        ({"sampler": "mcmc", "latents": [0.0] * 6}, "sampler"),
        ({"sampler": "mcmc", "interpolate": {"from_seed": 1, "to_seed": 2}}, "sampler"),
        ({"sampler": "mcmc", "mix": [{"seed": 1}, {"seed": 2}]}, "sampler"),
    ],
)
async def test_what_has_no_meaning_with_a_sampler_is_refused(gan_client, fields, field):
    response = await gan_client.post(GENERATE, json={"model": "gan", **fields})
    assert (response.status_code, response.json().get("field")) == (400, field), response.text
