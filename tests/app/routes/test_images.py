"""`POST /v1/images/generate`: the right pictures, in the right wrapping, with their whole story."""

import asyncio
import base64
import io
import json
import zipfile
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from app import latents
from app.codecs import grid
from tests import fakes
from tests.conftest import running
from tests.serving import eventually

URL = "/v1/images/generate"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
AI = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


async def ask(client, accept="*/*", **body):
    response = await client.post(URL, json=body, headers={"Accept": accept})
    assert response.status_code == 200, response.text
    return response


def pixels(content):
    """[H, W, C] of a file."""
    picture = np.asarray(Image.open(io.BytesIO(content)))
    return picture if picture.ndim == 3 else picture[..., None]


def story(content, source=AI):
    """What the XMP packet of a PNG says, read by an XML parser."""
    image = Image.open(io.BytesIO(content))
    xmp = image.info.get("XML:com.adobe.xmp") or image.info["xmp"].decode()
    packet = xmp[xmp.index("<x:xmpmeta") : xmp.index("<?xpacket end")]
    attributes = next(ElementTree.fromstring(packet).iter(f"{RDF}Description")).attrib
    assert attributes["{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"] == source
    return attributes["{urn:genserve:xmp}model"], json.loads(attributes["{urn:genserve:xmp}parameters"])


def expected(seed, n=1, label=None, truncation=1.0):
    """Pictures that the fake model must make from these seeds."""
    drawn = [latents.from_seed(seed + j, (4,), 10) for j in range(n)]
    z = np.stack([latent for latent, _ in drawn]) * np.float32(truncation)
    return fakes.echo(z, np.array([own if label is None else label for _, own in drawn]))


async def test_an_empty_object_gives_one_picture(client):
    response = await ask(client)
    assert response.headers["content-type"] == "image/png"
    seed = int(response.headers["x-genserve-seed"])
    np.testing.assert_array_equal(pixels(response.content), expected(seed)[0])
    again = await ask(client, seed=seed)
    assert again.content == response.content
    other = await ask(client)
    assert other.headers["x-genserve-seed"] != str(seed)


async def test_headers_tell_how_to_make_it_again(client):
    response = await ask(client, seed=7)
    info = client.app.state.engine.models["echo"]
    assert response.headers["x-genserve-model"] == f"echo@{info.digest[:12]}"
    assert response.headers["x-genserve-seed"] == "7"
    kind, dtype, torch, threads = response.headers["x-genserve-runtime"].split("; ")
    assert (kind, dtype) == ("cpu", "float32")
    assert torch.startswith("torch 2.")
    assert threads.startswith("threads=")
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    "body", [{}, {"label": 3}, {"label": "kind 3"}, {"truncation": 0.5}, {"label": 0, "truncation": 1}]
)
async def test_pictures_follow_from_seed_label_and_truncation(client, body):
    response = await ask(client, seed=11, **body)
    label = {"kind 3": 3}.get(body.get("label"), body.get("label"))
    wanted = expected(11, label=label, truncation=body.get("truncation", 1.0))
    np.testing.assert_array_equal(pixels(response.content), wanted[0])


@pytest.mark.parametrize("n", [1, 2, 5, 64])
async def test_more_than_one_is_a_grid(client, n):
    wanted = expected(3, n)
    sheet = wanted[0] if n == 1 else grid(wanted)
    np.testing.assert_array_equal(pixels((await ask(client, seed=3, n=n)).content), sheet)


@pytest.mark.parametrize("image_format", ["png", "webp"])
async def test_member_j_of_an_archive_is_the_picture_of_seed_plus_j(client, image_format):
    """Byte for byte, provenance included: each can be made again alone."""
    response = await ask(client, "application/zip", seed=40, n=4, format=image_format, scale=2)
    assert response.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(response.content)) as bundle:
        assert bundle.namelist() == [f"echo-{j:02d}-seed-{40 + j}.{image_format}" for j in range(4)]
        for j, name in enumerate(bundle.namelist()):
            alone = await ask(client, seed=40 + j, format=image_format, scale=2)
            assert bundle.read(name) == alone.content


async def test_json_holds_the_same_files(client):
    response = await ask(client, "application/json", seed=40, n=3)
    answer = response.json()
    assert answer["model"] == response.headers["x-genserve-model"]
    assert answer["seed"] == 40
    for j, item in enumerate(answer["images"]):
        alone = await ask(client, seed=item["seed"], label=item["label"])
        assert item["seed"] == 40 + j
        assert item["label"] == latents.from_seed(40 + j, (4,), 10)[1]
        assert item["media_type"] == "image/png"
        assert base64.b64decode(item["base64"]) == alone.content


@pytest.mark.parametrize(
    ("accept", "body", "media_type"),
    [
        ("image/webp", {}, "image/webp"),
        ("image/*", {"format": "webp"}, "image/webp"),
        ("text/html, image/webp;q=0.9, image/png;q=0.8", {}, "image/webp"),
        ("application/json;q=0.1, image/png", {}, "image/png"),
    ],
)
async def test_accept_and_format(client, accept, body, media_type):
    response = await ask(client, accept, seed=1, **body)
    assert response.headers["content-type"] == media_type
    assert Image.open(io.BytesIO(response.content)).format.lower() == media_type.split("/")[1]
    np.testing.assert_array_equal(pixels(response.content)[..., :1], expected(1)[0])


async def test_several_accept_headers_are_one_list(client):
    headers = [("Accept", "text/html"), ("Accept", "application/zip")]
    response = await client.post(URL, json={}, headers=headers)
    assert response.headers["content-type"] == "application/zip"


async def test_scale(client):
    small, large = [(await ask(client, seed=5, n=2, scale=scale)).content for scale in (1, 3)]
    np.testing.assert_array_equal(pixels(large), pixels(small).repeat(3, 0).repeat(3, 1))


@pytest.mark.parametrize("given", [[0.1, -0.2, 0.3, 1], [[0.1, -0.2, 0.3, 1]], [[0, 0, 0, 0], [1, 1, 1, 1]]])
@pytest.mark.parametrize("label", [None, 4])
async def test_explicit_latents(client, given, label):
    response = await ask(client, "application/json", latents=given, **({} if label is None else {"label": label}))
    z = np.array(given, np.float32).reshape(-1, 4)
    wanted = fakes.echo(z, np.full(len(z), label or 0))
    items = response.json()["images"]
    assert [item["seed"] for item in items] == [None] * len(z)
    for item, picture in zip(items, wanted, strict=True):
        np.testing.assert_array_equal(pixels(base64.b64decode(item["base64"])), picture)


async def test_as_many_latents_as_pictures(client):
    assert (await ask(client, latents=[[0] * 4] * 64, n=64)).status_code == 200


async def test_latents_of_a_seed_give_the_picture_of_the_seed(client):
    z, label = latents.from_seed(9, (4,), 10)
    explicit = await ask(client, latents=[float(value) for value in z], label=label)
    np.testing.assert_array_equal(pixels(explicit.content), pixels((await ask(client, seed=9)).content))


async def test_interpolation(client):
    walk = {"from_seed": 1, "to_seed": 2, "steps": 5}
    response = await ask(client, "application/zip", interpolate=walk, label=2)
    path = latents.interpolate(*(latents.from_seed(seed, (4,), 10)[0] for seed in (1, 2)), 5)
    with zipfile.ZipFile(io.BytesIO(response.content)) as bundle:
        assert bundle.namelist() == [f"echo-{j:02d}.png" for j in range(5)]
        files = [bundle.read(name) for name in bundle.namelist()]
    for content, picture in zip(files, fakes.echo(path, np.full(5, 2)), strict=True):
        np.testing.assert_array_equal(pixels(content), picture)
    np.testing.assert_array_equal(pixels(files[0]), pixels((await ask(client, seed=1, label=2)).content))
    np.testing.assert_array_equal(pixels(files[-1]), pixels((await ask(client, seed=2, label=2)).content))
    assert story(files[3])[1] == {"interpolate": walk, "step": 3, "label": 2}
    shorter = await ask(client, interpolate={"from_seed": 1, "to_seed": 2}, truncation=0.5)
    assert shorter.status_code == 200


WALK = {"from_seed": 1, "to_seed": 2, "steps": 5}
MOVING = (("webp-animation", "image/webp"), ("apng", "image/apng"))


@pytest.mark.parametrize(("image_format", "media_type"), MOVING)
@pytest.mark.parametrize("scale", [1, 40])
async def test_a_walk_as_an_animation(client, image_format, media_type, scale):
    """Its frames are the pictures that a walk has in other formats, its ends those of the seeds."""
    response = await ask(client, interpolate=WALK, label=2, format=image_format, scale=scale, duration_ms=40)
    assert response.headers["content-type"] == media_type
    assert response.headers["x-genserve-seed"] == "1"
    image = Image.open(io.BytesIO(response.content))
    assert (image.n_frames, image.info["loop"]) == (5, 0)
    still = await ask(client, "application/zip", interpolate=WALK, label=2, scale=scale)
    with zipfile.ZipFile(io.BytesIO(still.content)) as bundle:
        files = [bundle.read(name) for name in bundle.namelist()]
    for place, content in enumerate(files):
        image.seek(place)
        image.load()
        np.testing.assert_array_equal(np.asarray(image.convert("L"))[..., None], pixels(content))
        assert image.info["duration"] == 40
    for seed, content in ((1, files[0]), (2, files[-1])):
        np.testing.assert_array_equal(
            pixels((await ask(client, seed=seed, label=2, scale=scale)).content), pixels(content)
        )
    again = await ask(client, interpolate=WALK, label=2, format=image_format, scale=scale, duration_ms=40)
    assert again.content == response.content


@pytest.mark.parametrize(("image_format", "media_type"), MOVING)
async def test_an_animation_in_json_is_one_file(client, image_format, media_type):
    body = {"interpolate": WALK, "label": 2, "format": image_format}
    alone = await ask(client, **body)
    answer = (await ask(client, "application/json", **body)).json()
    (item,) = answer["images"]
    assert (answer["seed"], item["seed"], item["label"], item["media_type"]) == (1, None, 2, media_type)
    assert base64.b64decode(item["base64"]) == alone.content


@pytest.mark.parametrize(("image_format", "media_type"), MOVING)
@pytest.mark.parametrize("accept", ["application/zip", "image/png", "text/html"])
async def test_what_an_animation_can_t_be(client, image_format, media_type, accept):
    body = {"interpolate": WALK, "format": image_format}
    refused = await client.post(URL, json=body, headers={"Accept": accept})
    assert (refused.status_code, refused.json()["code"]) == (406, "not_acceptable")
    assert f"offers {media_type}, application/json" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"format": "apng"}, "format"),
        ({"format": "webp-animation", "n": 4}, "format"),
        ({"format": "apng", "latents": [[0, 0, 0, 0]] * 3}, "format"),
        ({"format": "apng", "interpolate": {"from_seed": 1, "to_seed": 2, "steps": 1}}, "interpolate.steps"),
        ({"format": "apng", "interpolate": {"from_seed": 1, "to_seed": 2, "steps": 65}}, "interpolate.steps"),
        ({"duration_ms": 50}, "duration_ms"),
        ({"duration_ms": 50, "interpolate": WALK}, "duration_ms"),
        ({"loop": "once", "interpolate": WALK, "format": "webp"}, "loop"),
        ({"format": "apng", "interpolate": WALK, "duration_ms": 19}, "duration_ms"),
        ({"format": "apng", "interpolate": WALK, "duration_ms": 10_001}, "duration_ms"),
        ({"format": "apng", "interpolate": WALK, "duration_ms": 50.0}, "duration_ms"),
        ({"format": "apng", "interpolate": WALK, "duration_ms": True}, "duration_ms"),
        ({"format": "apng", "interpolate": WALK, "loop": 3}, "loop"),
        ({"format": "APNG", "interpolate": WALK}, "format"),
    ],
)
async def test_what_is_no_animation(client, body, field):
    refused = await client.post(URL, json=body)
    assert (refused.status_code, refused.json()["field"]) == (400, field), refused.text


async def test_every_frame_of_an_animation_counts(settings):
    """Also those that a boomerang shows on its way back."""
    async with running(settings(max_pixels=64 * 16)) as client:
        body = {"interpolate": {**WALK, "steps": 64}, "format": "apng"}
        assert (await ask(client, **body)).status_code == 200
        for more, field in (({"loop": "boomerang"}, "interpolate"), ({"scale": 2}, "scale")):
            refused = await client.post(URL, json=body | more)
            assert (refused.status_code, refused.json()["field"]) == (400, field)
        made = client.app.state.telemetry.registry.get_sample_value("genserve_images_total", {"model": "echo"})
        assert made == 64, "refused before they are computed"


async def test_an_animation_has_a_largest_side(settings, weights):
    fakes.write(weights, "wide", side=300)
    async with running(settings(max_pixels=1 << 30)) as client:
        body = {"model": "wide", "scale": 55, "interpolate": {**WALK, "steps": 2}, "format": "webp-animation"}
        refused = await client.post(URL, json=body)
        assert (refused.status_code, refused.json()["field"]) == (400, "format")


@pytest.mark.parametrize(
    "body",
    [
        {"seed": 1},
        {"seed": 2, "label": "kind 7", "truncation": 0.25, "scale": 3},
        {"seed": 3, "n": 4},
        {"seed": 3, "n": 4, "label": 5, "truncation": 0.5},
        {"interpolate": {"from_seed": 1, "to_seed": 2, "steps": 3}, "label": 1},
    ],
)
@pytest.mark.parametrize("image_format", ["png", "webp"])
async def test_provenance_remakes_the_same_file(client, body, image_format):
    """From the file alone, without the request or its headers."""
    content = (await ask(client, format=image_format, **body)).content
    model, parameters = story(content)
    assert model == f"echo@{client.app.state.engine.models['echo'].digest[:12]}"
    count = parameters.pop("grid", 1)
    again = parameters if "interpolate" in parameters else {**parameters, "n": count}
    assert (await ask(client, format=image_format, **again)).content == content


@pytest.mark.parametrize(("image_format", "_"), MOVING)
@pytest.mark.parametrize("body", [{}, {"label": 1, "scale": 2, "loop": "boomerang", "duration_ms": 333}])
async def test_provenance_remakes_the_same_animation(client, body, image_format, _):
    content = (await ask(client, format=image_format, interpolate=WALK, **body)).content
    _, parameters = story(content)
    assert parameters["interpolate"] == WALK
    assert (await ask(client, format=image_format, **parameters)).content == content


async def test_provenance_of_latents_names_their_digest(client):
    import hashlib

    z = np.array([0, 0.5, 1, -1], np.float32)
    _, parameters = story((await ask(client, latents=z.tolist())).content)
    assert parameters == {"latents_sha256": hashlib.sha256(z.tobytes()).hexdigest(), "label": 0}


async def test_nothing_that_varies_is_in_the_bytes(client):
    bodies = [{"seed": 1, "n": 3}] * 2
    for accept in ("image/png", "image/webp", "application/zip", "application/json"):
        first, second = [(await ask(client, accept, **body)).content for body in bodies]
        assert first == second


async def test_unconditional_model(settings, tmp_path):
    fakes.write(tmp_path / "plain", "plain", num_classes=0, image_channels=3)
    async with running(settings(weights=tmp_path / "plain")) as client:
        response = await ask(client, "application/json", seed=4)
        (item,) = response.json()["images"]
        assert item["label"] is None
        z = latents.from_seed(4, (4,), 0)[0][None]
        wanted = fakes.echo(z, np.zeros(1, np.int64), channels=3, num_classes=0)[0]
        np.testing.assert_array_equal(pixels(base64.b64decode(item["base64"])), wanted)
        assert story(base64.b64decode(item["base64"]))[1] == {"seed": 4}
        for label in (0, "kind 0"):
            refused = await client.post(URL, json={"label": label})
            assert (refused.status_code, refused.json()["field"]) == (400, "label")


async def test_models_by_name_and_by_order(settings, weights):
    fakes.write(weights, "another", image_channels=3)
    async with running(settings()) as client:
        assert (await ask(client)).headers["x-genserve-model"].startswith("another@")
        assert (await ask(client, model="echo")).headers["x-genserve-model"].startswith("echo@")


async def test_the_answer_s_size_is_bounded_before_compute(settings):
    async with running(settings(max_pixels=1024)) as client:
        assert (await ask(client, n=64)).status_code == 200
        for body, field in (({"n": 64, "scale": 2}, "scale"), ({"scale": 9}, "scale")):
            refused = await client.post(URL, json=body)
            assert (refused.status_code, refused.json()["field"]) == (400, field)
        assert client.app.state.telemetry.registry.get_sample_value("genserve_images_total", {"model": "echo"}) == 64


async def test_webp_has_a_largest_side(settings, weights):
    fakes.write(weights, "wide", side=300)
    async with running(settings(max_pixels=1 << 30)) as client:
        refused = await client.post(URL, json={"model": "wide", "scale": 55, "format": "webp"})
        assert (refused.status_code, refused.json()["field"]) == (400, "format")


async def test_many_at_once_each_get_their_own(settings):
    bodies = [{"seed": 1000 * i, "n": 1 + i * 7 % 64, "label": i % 10} for i in range(64)]
    async with running(settings(max_queue=64 * 64)) as client:
        alone = [(await ask(client, **body)).content for body in bodies]
        together = await asyncio.gather(*(ask(client, **body) for body in bodies))
        assert [response.content for response in together] == alone


async def test_one_bad_request_does_not_fail_its_batch_mates(client, gate):
    """Seven requests that wait together, one of them poisoned: six answers, the same as ever."""
    held = asyncio.ensure_future(ask(client, latents=[fakes.GATE, 0, 0, 0]))
    await eventually(lambda: fakes.held(gate).exists())
    bodies = [{"seed": i} for i in range(6)]
    good = [asyncio.ensure_future(ask(client, **body)) for body in bodies]
    bad = asyncio.ensure_future(client.post(URL, json={"latents": [fakes.RAISE, 0, 0, 0]}))
    await eventually(lambda: client.app.state.engine.in_flight >= 8)
    gate.unlink()
    await held
    assert (await bad).json()["code"] == "compute_failed"
    assert [r.content for r in await asyncio.gather(*good)] == [(await ask(client, **body)).content for body in bodies]


async def test_a_full_queue_says_when_to_come_back(settings, gate):
    async with running(settings(max_queue=64)) as client:
        held = asyncio.ensure_future(ask(client, latents=[[fakes.GATE, 0, 0, 0]] * 64))
        await eventually(lambda: fakes.held(gate).exists())
        refused = await client.post(URL, json={})
        assert refused.status_code == 429
        assert refused.json()["code"] == "overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        assert int(refused.headers["retry-after-ms"]) >= 1
        gate.unlink()
        assert (await held).status_code == 200
        assert (await ask(client)).status_code == 200
