"""Pictures in: the right latents, the right picture of them, and a clear refusal of what can't be taken."""

import asyncio
import base64
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image

from app.engine.supervisor import WorkerProcess
from app.plan import digest
from tests import fakes
from tests.app.routes.test_images import pixels, story
from tests.conftest import COMMITTED, running
from tests.serving import eventually

ENCODE, RECONSTRUCT, GENERATE = "/v1/images/encode", "/v1/images/reconstruct", "/v1/images/generate"
PNG = {"Content-Type": "image/png"}


@pytest.fixture
def encoder_settings(settings, tmp_path, gate):
    """A model that encodes, "reader", between two that do not."""
    folder = tmp_path / "readers"
    fakes.write(folder, "echo")
    fakes.write(folder, "reader", "echo-encoder", gate=str(gate))
    fakes.write(folder, "styled", "echo-styles")
    return lambda **fields: settings(weights=folder, **fields)


@pytest.fixture
async def client(encoder_settings):
    async with running(encoder_settings()) as client:
        yield client


def picture(seed=0, side=4, first=None):
    """[side, side, 1], as a file and as it is."""
    made = np.random.default_rng(seed).integers(0, 250, (side, side, 1), dtype=np.uint8)
    if first is not None:
        made[0, 0] = first
    return file_of(made[..., 0]), made


def file_of(array, name="png", **options):
    out = io.BytesIO()
    Image.fromarray(array).save(out, name, **options)
    return out.getvalue()


def wanted(made, label):
    return fakes.encoded(made[None], np.array([label]))[0]


async def upload(client, content, url=ENCODE, media_type="image/png", accept="*/*", **query):
    return await client.post(url, content=content, params=query, headers={"Content-Type": media_type, "Accept": accept})


async def test_a_picture_becomes_latents(client):
    content, made = picture()
    response = await upload(client, content, model="reader", label="kind 3")
    assert response.status_code == 200, response.text
    answer = response.json()
    np.testing.assert_allclose(answer["latents"], wanted(made, 3), atol=1e-6)
    info = client.app.state.engine.models["reader"]
    assert (answer["model"], answer["label"]) == (info.identity, 3)
    assert answer["latents_sha256"] == digest(np.array(answer["latents"], np.float32))
    assert answer["picture"] == {
        "format": "png",
        "width": 4,
        "height": 4,
        "orientation": 1,
        "flattened": False,
        "grey": False,
        "crop": None,
        "resized": False,
    }
    assert response.headers["x-genserve-model"] == info.identity
    assert response.headers["x-genserve-seed"] == "none"
    assert "; float32; " in response.headers["x-genserve-runtime"]


async def test_the_same_in_every_form(client):
    content, _ = picture()
    raw = (await upload(client, content, label=3)).json()
    encoded = base64.b64encode(content).decode()
    lines = "\n".join(encoded[i : i + 76] for i in range(0, len(encoded), 76))
    for image in (encoded, lines, f"data:image/png;base64,{encoded}", f"DATA:image/x-png;base64,{lines}\n"):
        response = await client.post(ENCODE, json={"image": image, "label": "kind 3"})
        assert response.json() == raw
    for media_type in ("image/jpeg", "application/octet-stream", "image/webp; q=1"):  # what it is counts
        assert (await upload(client, content, media_type=media_type, model="reader", label="3")).json() == raw


async def test_any_picture_is_made_to_fit(client):
    exif = Image.Exif()
    exif[0x0112] = 6
    colours = np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    response = await upload(client, file_of(colours, "jpeg", exif=exif), label=0)
    said = response.json()["picture"]
    assert said == {
        "format": "jpeg",
        "width": 500,
        "height": 300,
        "orientation": 6,
        "flattened": False,
        "grey": True,
        "crop": [100, 0, 400, 300],
        "resized": True,
    }


@pytest.mark.parametrize("image_format", ["png", "webp"])
async def test_reconstruction_is_what_generate_makes_of_the_latents(client, image_format):
    """Byte for byte, the story included, and the same each time."""
    content, _ = picture(1)
    answer = (await upload(client, content, label=3)).json()
    query = {"label": 3, "scale": 2, "format": image_format}
    response = await upload(client, content, RECONSTRUCT, **query)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == f"image/{image_format}"
    assert response.headers["x-genserve-seed"] == "none"
    same = {"model": "reader", "latents": answer["latents"], "label": 3, "scale": 2, "format": image_format}
    assert response.content == (await client.post(GENERATE, json=same)).content
    assert response.content == (await upload(client, content, RECONSTRUCT, **query)).content
    model, parameters = story(response.content)
    assert model == answer["model"]
    assert parameters == {"latents_sha256": answer["latents_sha256"], "label": 3, "scale": 2}


async def test_reconstruction_shows_the_picture(client):
    """What the model has painted, it paints again: the fake's latents are within its reach."""
    z = np.array([0.25, -0.5, 0.75, 0.0], np.float32)
    made = (await client.post(GENERATE, json={"model": "reader", "latents": z.tolist(), "label": 0})).content
    again = await upload(client, made, RECONSTRUCT, label=0)
    np.testing.assert_array_equal(pixels(again.content), pixels(made))


async def test_reconstruction_as_another_class_and_in_every_wrapping(client):
    content, made = picture(2)
    body = {"image": base64.b64encode(content).decode(), "label": 2, "target_label": "kind 7"}
    response = await client.post(RECONSTRUCT, json=body, headers={"Accept": "application/json"})
    (item,) = response.json()["images"]
    assert (item["seed"], item["label"]) == (None, 7)
    expected = fakes.echo(wanted(made, 2)[None], np.array([7]))[0]
    np.testing.assert_array_equal(pixels(base64.b64decode(item["base64"])), expected)
    webp = await upload(client, content, RECONSTRUCT, accept="image/webp", label=2, target_label=7)
    np.testing.assert_array_equal(pixels(webp.content)[..., :1], expected)
    assert (await upload(client, content, RECONSTRUCT, accept="application/zip", label=2)).content[:2] == b"PK"


async def test_unconditional_models_want_no_label(settings, tmp_path):
    fakes.write(tmp_path / "plain", "plain", "echo-encoder", num_classes=0)
    async with running(settings(weights=tmp_path / "plain")) as client:
        content, made = picture(side=4)
        answer = (await upload(client, content)).json()
        assert answer["label"] is None
        np.testing.assert_allclose(answer["latents"], wanted(made, 0), atol=1e-6)
        assert (await upload(client, content, RECONSTRUCT)).status_code == 200
        for field in ("label", "target_label"):
            refused = await upload(client, content, RECONSTRUCT, **{field: 0})
            assert (refused.status_code, refused.json()["field"]) == (400, field)


async def test_models_say_whether_they_encode_and_have_styles(client):
    listed = {model["id"]: model["genserve"] for model in (await client.get("/v1/models")).json()["data"]}
    assert {name: card["encodes"] for name, card in listed.items()} == {"echo": False, "reader": True, "styled": False}
    assert {name: card["styles"] for name, card in listed.items()} == {"echo": 0, "reader": 0, "styled": 3}
    assert listed["styled"]["latent_shape"] == [3, 4]


async def test_a_styled_model_mixes_the_styles_of_two_seeds(client):
    from app.latents import styled_from_seed

    response = await client.post(GENERATE, json={"model": "styled", "seed": 5, "style_seed": 6, "style_from": 1})
    rows = styled_from_seed(5, (3, 4), 10)[0].copy()
    rows[1:] = styled_from_seed(6, (3, 4), 10)[0][1:]
    np.testing.assert_array_equal(pixels(response.content), fakes.styles_echo(rows[None])[0])
    _, parameters = story(response.content)
    again = await client.post(GENERATE, json={"model": "styled", **parameters})
    assert again.content == response.content
    refused = await client.post(GENERATE, json={"model": "echo", "style_seed": 6})
    assert (refused.status_code, refused.json()["field"]) == (400, "style_seed")


async def test_a_mix_is_made_and_can_be_made_again(client):
    body = {"mix": [{"seed": 1, "weight": 0.25}, {"seed": 2, "weight": 0.75}], "label": 4, "truncation": 0.5}
    made = await client.post(GENERATE, json=body)
    assert made.headers["x-genserve-seed"] == "none"
    _, parameters = story(made.content)
    assert parameters == body
    assert (await client.post(GENERATE, json=parameters)).content == made.content


def bomb(width, height):
    """A PNG with a header of this size and no more pixels than nothing takes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9999))) + chunk(b"IEND", b"")
    )


CONTENT = picture()[0]
BASE64 = base64.b64encode(CONTENT).decode()


@pytest.mark.parametrize("url", [ENCODE, RECONSTRUCT])
@pytest.mark.parametrize(
    ("content", "media_type", "query", "status", "code", "field"),
    [
        (CONTENT, "image/png", {}, 400, "invalid_field", "label"),
        (CONTENT, "image/png", {"label": 10}, 400, "invalid_field", "label"),
        (CONTENT, "image/png", {"label": "Kind 1"}, 400, "invalid_field", "label"),
        (CONTENT, "image/png", {"label": [1, 2]}, 400, "invalid_field", "label"),
        (CONTENT, "image/png", {"label": "1" * 300}, 400, "invalid_field", "label"),
        (CONTENT, "image/png", {"label": 1, "model": "echo"}, 404, "model_not_found", "model"),
        (CONTENT, "image/png", {"label": 1, "model": "nope"}, 404, "model_not_found", "model"),
        (CONTENT, "image/png", {"label": 1, "colour": "red"}, 400, "unknown_field", "colour"),
        (CONTENT, "image/png", {"label": 1, "image": "x"}, 400, "unknown_field", "image"),
        (CONTENT[:40], "image/png", {"label": 1}, 400, "invalid_picture", None),
        (CONTENT[:-30], "image/png", {"label": 1}, 400, "invalid_picture", None),
        (b"", "image/png", {"label": 1}, 415, "unsupported_media_type", None),
        (b"GIF89a...", "image/png", {"label": 1}, 415, "unsupported_media_type", None),
        (CONTENT, "image/gif", {"label": 1}, 415, "unsupported_media_type", None),
        (CONTENT, "application/x-www-form-urlencoded", {"label": 1}, 415, "unsupported_media_type", None),
        (CONTENT, "", {"label": 1}, 415, "unsupported_media_type", None),
        (bomb(60_000, 60_000), "image/png", {"label": 1}, 413, "picture_too_large", None),
        (b"x" * 20_000_000, "image/png", {"label": 1}, 413, "body_too_large", None),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else None,
)
async def test_refusals(client, url, content, media_type, query, status, code, field):
    response = await upload(client, content, url, media_type, **query)
    problem = response.json()
    assert (response.status_code, problem["code"], problem.get("field")) == (status, code, field), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert len(response.content) < 2000


@pytest.mark.parametrize("url", [ENCODE, RECONSTRUCT])
@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({"label": 1}, 400, "invalid_field", "image"),
        ({"label": 1, "image": ""}, 400, "invalid_field", "image"),
        ({"label": 1, "image": "?"}, 400, "invalid_field", "image"),
        ({"label": 1, "image": "\u00e9"}, 400, "invalid_field", "image"),
        ({"label": 1, "image": "data:image/png," + BASE64}, 400, "invalid_field", "image"),
        ({"label": 1, "image": BASE64[:-1]}, 400, "invalid_field", "image"),
        ({"label": 1, "image": [BASE64]}, 400, "invalid_field", "image"),
        ({"label": 1, "image": "AAAA"}, 415, "unsupported_media_type", None),
        ({"label": 1, "image": BASE64, "seed": 1}, 400, "unknown_field", "seed"),
        ({"label": True, "image": BASE64}, 400, "invalid_field", "label"),
    ],
)
async def test_refusals_of_json_bodies(client, url, body, status, code, field):
    response = await client.post(url, json=body)
    problem = response.json()
    assert (response.status_code, problem["code"], problem.get("field")) == (status, code, field), response.text


async def test_what_only_one_route_knows(client):
    assert (await upload(client, CONTENT, ENCODE, label=1, scale=2)).json()["field"] == "scale"
    assert (await upload(client, CONTENT, ENCODE, accept="image/png", label=1)).status_code == 406
    for field, value in (("scale", 0), ("scale", "2.0"), ("format", "gif"), ("target_label", 10)):
        refused = await upload(client, CONTENT, RECONSTRUCT, label=1, **{field: value})
        assert (refused.status_code, refused.json()["field"]) == (400, field)


@examples(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=5), size=st.integers(0, 400))
async def test_broken_files_are_never_our_fault(client, changes, size):
    content = bytearray(picture(side=9)[0])
    for place, value in changes:
        content[place % len(content)] = value
    response = await upload(client, bytes(content[:size]), label=1)
    assert response.status_code in (200, 400, 413, 415)


async def test_pixels_are_bounded_by_a_setting(encoder_settings):
    async with running(encoder_settings(max_upload_pixels=1024)) as client:
        assert (await upload(client, picture(side=32)[0], label=1)).status_code == 200
        refused = await upload(client, picture(side=33)[0], label=1)
        assert (refused.status_code, refused.json()["code"]) == (413, "picture_too_large")
        assert "33 x 33" in refused.json()["detail"]


async def test_the_answer_s_size_is_bounded_before_compute(encoder_settings):
    async with running(encoder_settings(max_pixels=1024)) as client:
        assert (await upload(client, CONTENT, RECONSTRUCT, label=1, scale=8)).status_code == 200
        refused = await upload(client, CONTENT, RECONSTRUCT, label=1, scale=9)
        assert (refused.status_code, refused.json()["field"]) == (400, "scale")
        count = client.app.state.telemetry.registry.get_sample_value
        assert count("genserve_encoded_total", {"model": "reader"}) == 1


async def test_large_pictures_are_read_in_threads(client, monkeypatch):
    calls = []
    run = client.app.state.service._encoders.run
    monkeypatch.setattr(client.app.state.service._encoders, "run", lambda *given: calls.append(given) or run(*given))
    content = file_of(np.zeros((500, 500), np.uint8))
    assert (await upload(client, content, label=1)).status_code == 200
    assert [given[1:3] for given in calls] == [(250_000, "upload")]
    assert (await upload(client, content[:-50], label=1)).json()["code"] == "invalid_picture"
    assert client.app.state.service._encoders._backlog == 0.0
    assert (await upload(client, picture()[0], label=1)).status_code == 200
    assert len(calls) == 2


async def test_a_request_whose_time_is_over(client, gate):
    held = asyncio.ensure_future(upload(client, picture(first=fakes.POISON[fakes.GATE])[0], label=1))
    await eventually(lambda: fakes.held(gate).exists())
    headers = PNG | {"X-Request-Timeout": "0.05"}
    late = await client.post(ENCODE, content=picture()[0], params={"label": 1}, headers=headers)
    assert late.status_code in (429, 504)
    gate.unlink()
    assert (await held).status_code == 200


async def test_one_bad_picture_does_not_fail_its_batch_mates(client, gate):
    """They wait together while the device is held; pictures that are made meanwhile wait beside them."""
    held = asyncio.ensure_future(upload(client, picture(first=fakes.POISON[fakes.GATE])[0], label=1))
    await eventually(lambda: fakes.held(gate).exists())
    good = [asyncio.ensure_future(upload(client, picture(i)[0], label=i)) for i in range(6)]
    bad = [
        asyncio.ensure_future(upload(client, picture(first=fakes.POISON[what])[0], label=1))
        for what in (fakes.RAISE, fakes.NAN)
    ]
    painted = asyncio.ensure_future(client.post(GENERATE, json={"model": "reader", "seed": 1}))
    await eventually(lambda: client.app.state.engine.in_flight >= 10)
    gate.unlink()
    assert (await held).status_code == 200
    assert [(await one).json()["code"] for one in bad] == ["compute_failed"] * 2
    for i, response in enumerate(await asyncio.gather(*good)):
        np.testing.assert_allclose(response.json()["latents"], wanted(picture(i)[1], i), atol=1e-6)
    assert (await painted).status_code == 200
    count = client.app.state.telemetry.registry.get_sample_value
    assert count("genserve_encoded_total", {"model": "reader"}) == 7
    assert count("genserve_images_total", {"model": "reader"}) == 1
    assert count("genserve_batch_size_sum", {"model": "reader/encode"}) == 9


async def test_a_client_that_leaves_takes_its_picture_back(client, gate):
    held = asyncio.ensure_future(upload(client, picture(first=fakes.POISON[fakes.GATE])[0], label=1))
    await eventually(lambda: fakes.held(gate).exists())
    leaving = asyncio.ensure_future(upload(client, picture()[0], label=1))
    await eventually(lambda: client.app.state.engine.in_flight == 2)
    leaving.cancel()
    await eventually(lambda: client.app.state.engine.in_flight == 1)
    gate.unlink()
    assert (await held).status_code == 200


async def test_a_picture_that_ends_the_worker_fails_alone(encoder_settings):
    async with running(encoder_settings(), launch=WorkerProcess) as client:
        bad = upload(client, picture(first=fakes.POISON[fakes.EXIT])[0], label=1)
        good = [upload(client, picture(i)[0], label=i) for i in range(4)]
        killer, *others = await asyncio.gather(bad, *good)
        assert (killer.status_code, killer.json()["code"]) == (500, "kills_worker")
        for i, response in enumerate(others):
            np.testing.assert_allclose(response.json()["latents"], wanted(picture(i)[1], i), atol=1e-6)


COMMITTED_ENCODERS = [folder.parent.name for folder in COMMITTED.glob("*-vae/model.safetensors")]


@pytest.mark.skipif(not COMMITTED_ENCODERS, reason="no weights with an encoder in this checkout")
async def test_the_same_bytes_alone_and_in_any_batch(settings):
    """On committed weights, in the precision that users get."""
    names = COMMITTED_ENCODERS[:1]
    async with running(settings(weights=COMMITTED, models=names, dtype="auto", threads=2)) as client:
        files = [picture(seed, side=28)[0] for seed in range(24)]
        alone = [(await upload(client, content, label=i % 10)).content for i, content in enumerate(files)]
        together = await asyncio.gather(*(upload(client, content, label=i % 10) for i, content in enumerate(files)))
        assert [response.content for response in together] == alone
        pictures = await asyncio.gather(*(upload(client, content, RECONSTRUCT, label=1) for content in files))
        assert len({response.content for response in pictures}) == len(files)
        for content, response in zip(files[:3], pictures, strict=False):
            assert (await upload(client, content, RECONSTRUCT, label=1)).content == response.content
