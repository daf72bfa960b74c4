"""Bad bodies get the right status, code and field, and nothing else is affected by them."""

import json

import httpx
import pytest

from tests.conftest import running

URL = "/v1/images/generate"
GOOD = {"seed": 3, "n": 2}
JSON = {"Content-Type": "application/json"}


async def assert_problem(client, response, status, code, field=None):
    """The problem itself, and that the service is none the worse for it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["status"], problem["code"], problem.get("field")) == (status, code, field)
    assert problem["type"] == f"urn:genserve:error:{code}"
    assert problem["title"]
    assert problem["detail"]
    assert problem["request_id"] == response.headers["x-request-id"]
    if field:
        assert field in problem["detail"]
    assert len(response.content) < 2000
    good = await client.post(URL, json=GOOD)
    assert good.status_code == 200
    assert good.content == client.good, "the same bytes as before"


@pytest.fixture
async def client(client):
    client.good = (await client.post(URL, json=GOOD)).content
    return client


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ('{"model": "nope"}', 404, "model_not_found", "model"),
        ('{"model": 3}', 400, "invalid_field", "model"),
        ('{"colour": "red"}', 400, "unknown_field", "colour"),
        ('{"two words": 1}', 400, "unknown_field", "two words"),
        ('{"caption": "a cat"}', 400, "unknown_field", "caption"),
        ('{"prompt": "a cat"}', 400, "invalid_field", "prompt"),
        ('{"interpolate": {"from_seed": 1, "to_seed": 2, "speed": 1}}', 400, "unknown_field", "interpolate.speed"),
        ('{"interpolate": {"to_seed": 2}}', 400, "invalid_field", "interpolate.from_seed"),
        ('{"interpolate": {"from_seed": 1, "to_seed": 2}, "n": 2}', 400, "invalid_field", "n"),
        ('{"interpolate": {"from_seed": 1, "to_seed": 2}, "seed": 2}', 400, "invalid_field", "seed"),
        ('{"n": 0}', 400, "invalid_field", "n"),
        ('{"n": 65}', 400, "invalid_field", "n"),
        ('{"n": "2"}', 400, "invalid_field", "n"),
        ('{"n": 1e400}', 400, "invalid_field", "n"),
        ('{"seed": -1}', 400, "invalid_field", "seed"),
        ('{"seed": 9007199254740992}', 400, "invalid_field", "seed"),
        ('{"seed": 9007199254740991, "n": 2}', 400, "invalid_field", "seed"),
        ('{"seed": NaN}', 400, "invalid_field", "seed"),
        ('{"label": 10}', 400, "invalid_field", "label"),
        ('{"label": "kind 99"}', 400, "invalid_field", "label"),
        ('{"label": 1.5}', 400, "invalid_field", "label"),
        ('{"truncation": 0}', 400, "invalid_field", "truncation"),
        ('{"truncation": Infinity}', 400, "invalid_field", "truncation"),
        ('{"scale": 65}', 400, "invalid_field", "scale"),
        ('{"format": "gif"}', 400, "invalid_field", "format"),
        ('{"latents": [1, 2, 3]}', 400, "invalid_field", "latents"),
        ('{"latents": [[1, 2, 3, 4, 5]]}', 400, "invalid_field", "latents"),
        ('{"latents": [[[1, 2, 3, 4]]]}', 400, "invalid_field", "latents"),
        ('{"latents": []}', 400, "invalid_field", "latents"),
        ('{"latents": [[]]}', 400, "invalid_field", "latents"),
        ('{"latents": [[1, 2, 3, 4], [1, 2]]}', 400, "invalid_field", "latents"),
        ('{"latents": [1, 2, 3, "4"]}', 400, "invalid_field", "latents"),
        ('{"latents": ["a", "b", "c", "d"]}', 400, "invalid_field", "latents"),
        ('{"latents": [1, 2, 3, null]}', 400, "invalid_field", "latents"),
        ('{"latents": [1, 2, 3, {}]}', 400, "invalid_field", "latents"),
        ('{"latents": [true, false, true, false]}', 400, "invalid_field", "latents"),
        ('{"latents": [1, 2, 3, true]}', 400, "invalid_field", "latents"),
        ('{"latents": [1, 2, 3, NaN]}', 400, "invalid_field", "latents"),
        ('{"latents": [1, 2, 3, -Infinity]}', 400, "invalid_field", "latents"),
        ('{"latents": [1, 2, 3, 1e400]}', 400, "invalid_field", "latents"),
        ('{"latents": [1, 2, 3, 1e39]}', 400, "invalid_field", "latents"),
        ('{"latents": [1, 2, 3, 1' + "0" * 400 + "]}", 400, "invalid_field", "latents"),
        ('{"latents": ' + "[" * 100 + "1" + "]" * 100 + "}", 400, "invalid_field", "latents"),
        (json.dumps({"latents": [[0, 0, 0, 0]] * 65}), 400, "invalid_field", "latents"),
        ('{"latents": [0, 0, 0, 0], "seed": 1}', 400, "invalid_field", "seed"),
        ('{"latents": [0, 0, 0, 0], "truncation": 1}', 400, "invalid_field", "truncation"),
        ('{"latents": [0, 0, 0, 0], "n": 2}', 400, "invalid_field", "n"),
        ("", 400, "invalid_json", None),
        ("{", 400, "invalid_json", None),
        ("{'n': 1}", 400, "invalid_json", None),
        ('{"n": 1} x', 400, "invalid_json", None),
        ("[]", 400, "invalid_json", None),
        ('"text"', 400, "invalid_json", None),
        ("null", 400, "invalid_json", None),
        ("NaN", 400, "invalid_json", None),
        ("[" * 10_000, 400, "invalid_json", None),
        ('{"latents": ' + "[" * 10_000 + "1" + "]" * 10_000 + "}", 400, "invalid_json", None),
        ('{"a":' * 10_000 + "1" + "}" * 10_000, 400, "invalid_json", None),
        ("\xff", 400, "invalid_json", None),
        ('{"model": "\\ud800"}', 400, "invalid_json", None),
        ('{"seed": 1' + "0" * 5000 + "}", 400, "invalid_json", None),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_bad_bodies(client, body, status, code, field):
    response = await client.post(URL, content=body.encode("latin-1"), headers=JSON)
    await assert_problem(client, response, status, code, field)


async def test_a_fault_of_the_network_is_its_request_s_alone(client):
    from tests.fakes import NAN, RAISE

    for magic in (RAISE, NAN):
        await assert_problem(client, await client.post(URL, json={"latents": [magic, 0, 0, 0]}), 500, "compute_failed")


@pytest.mark.parametrize("name", ["x" * 50_000, "ключ", "", "a.b", "<script>"])
async def test_unknown_fields_are_named_whatever_they_are_called(client, name):
    response = await client.post(URL, json={name: 1})
    await assert_problem(client, response, 400, "unknown_field", name[:100] or None if name else "")


@pytest.mark.parametrize(
    "media_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/problem+json"]
)
async def test_wrong_content_types(client, media_type):
    headers = {} if media_type is None else {"Content-Type": media_type}
    response = await client.post(URL, content=b"{}", headers=headers)
    await assert_problem(client, response, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "media_type", ["application/json; charset=utf-8", "Application/JSON", " application/json ;x=y"]
)
async def test_content_type_parameters_and_case(client, media_type):
    response = await client.post(URL, content=json.dumps(GOOD), headers={"Content-Type": media_type})
    assert response.content == client.good


async def test_no_body_at_all(client):
    await assert_problem(client, await client.post(URL), 415, "unsupported_media_type")


async def chunks(total, size=1000):
    for _ in range(0, total, size):
        yield b" " * size


@pytest.mark.parametrize("excess", [0, 1])
async def test_the_largest_body(settings, excess):
    async with running(settings(max_body=2048)) as client:
        client.good = (await client.post(URL, json=GOOD)).content
        body = json.dumps(GOOD).ljust(2048 + excess).encode()
        response = await client.post(URL, content=body, headers=JSON)
        if excess:
            await assert_problem(client, response, 413, "body_too_large")
        else:
            assert response.content == client.good


async def test_oversized_bodies_are_refused_from_their_declared_length(settings):
    """Before a single byte is read: the stream here would fail if it were touched."""

    class Untouchable(httpx.AsyncByteStream):
        async def __aiter__(self):
            raise AssertionError("the body was read")
            yield

    async with running(settings(max_body=2048)) as client:
        client.good = (await client.post(URL, json=GOOD)).content
        request = client.build_request("POST", URL, content=Untouchable(), headers={**JSON, "Content-Length": "2049"})
        await assert_problem(client, await client.send(request), 413, "body_too_large")


async def test_oversized_bodies_in_chunks(settings):
    async with running(settings(max_body=2048)) as client:
        client.good = (await client.post(URL, json=GOOD)).content
        response = await client.post(URL, content=chunks(1_000_000), headers=JSON)
        await assert_problem(client, response, 413, "body_too_large")


@pytest.mark.parametrize("declared", ["-1", "abc", "\xb2", "9" * 30])
async def test_strange_content_lengths(client, declared):
    """Real servers refuse most of these; none of them may become a 500."""
    headers = {**JSON, "Content-Length": declared.encode("latin-1")}
    response = await client.send(client.build_request("POST", URL, content=json.dumps(GOOD), headers=headers))
    assert response.status_code in (200, 400, 413)


async def test_accept_that_nobody_can_serve(client):
    response = await client.post(URL, json={}, headers={"Accept": "text/html"})
    await assert_problem(client, response, 406, "not_acceptable")
    response = await client.post(URL, json={"format": "png"}, headers={"Accept": "image/webp"})
    await assert_problem(client, response, 406, "not_acceptable")
