"""Nothing that a client sends, or a weights folder holds, costs more than its limit or reaches further than its field.

What each route says of each wrong field is tested with the routes. Here stands what must hold for all of them: no
depth, number, string, name or size ends in anything but a refusal that names the fault, at a bounded price.
"""

import asyncio
import dataclasses
import gzip
import json
import logging
import struct
import sys
import tracemalloc

import numpy as np
import pytest

from app.codecs import MAX_WEBP_SIDE
from app.engine.jobs import LatentJob, ModelInfo
from app.errors import InvalidField
from app.generated import Generated
from app.plan import Plan, plan_images
from app.schemas.completions import OpenAICompletionRequest
from app.schemas.images import ImageRequest
from app.schemas.openai import OpenAIImageRequest
from app.schemas.text import TextRequest
from app.worker.faults import RegistryError
from app.worker.folders import find_folders
from models import checkpoint
from models.errors import CheckpointError
from models.files import MAX_HEADER_BYTES
from tests import fakes
from tests.conftest import running
from tests.models.test_checkpoint import rewrite_weights
from tests.serving import eventually

IMAGES, TEXT = "/v1/images/generate", "/v1/text/complete"
SCHEMAS = {
    IMAGES: ImageRequest,
    TEXT: TextRequest,
    "/v1/images/generations": OpenAIImageRequest,
    "/v1/completions": OpenAICompletionRequest,
}
GOOD = {IMAGES: {"seed": 3}, TEXT: {"model": "counting", "prompt": "a", "max_tokens": 2}}
JSON = {"Content-Type": "application/json"}
MEBIBYTE = 1 << 20
LARGEST_REFUSAL = 2000  # bytes

each_route = pytest.mark.parametrize("route", SCHEMAS)


def fault(response):
    """Code and field of a refusal, in whichever shape its route has."""
    assert len(response.content) < LARGEST_REFUSAL
    body = response.json()
    if "error" in body:
        return body["error"]["code"], body["error"]["param"]
    return body["code"], body.get("field")


async def refused(client, route, body, codes=("invalid_json", "invalid_field", "unknown_field")):
    content = body if isinstance(body, bytes) else body.encode()
    response = await client.post(route, content=content, headers=JSON)
    assert response.status_code == 400, (body[:80], response.text[:200])
    code, field = fault(response)
    assert code in codes, (body[:80], code)
    return field


@pytest.fixture
async def client(text_client):
    """All four routes; whatever a test has sent, work is answered as before."""
    before = {route: (await text_client.post(route, json=body)).content for route, body in GOOD.items()}
    yield text_client
    assert text_client.app.state.engine.in_flight == 0
    for route, body in GOOD.items():
        response = await text_client.post(route, json=body)
        assert response.status_code == 200, response.text
        assert route == TEXT or response.content == before[route]


# depth


@each_route
@pytest.mark.parametrize("depth", [1_000, 100_000])
async def test_deep_nesting_is_no_json(client, route, depth):
    """Arrays and objects, closed and unclosed, bare and in every field."""
    arrays, objects = "[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth
    mixed = '[{"a":' * (depth // 2) + "1" + "}]" * (depth // 2)
    bodies = [arrays, objects, mixed, "[" * depth, '{"a":' * depth]
    bodies += [f'{{"{name}": {deep}}}' for name in SCHEMAS[route].model_fields for deep in (arrays, objects, mixed)]
    for body in bodies:
        await refused(client, route, body, ("invalid_json",))


@each_route
async def test_every_depth_near_the_parser_s_limit(client, route):
    for depth in (*range(30, 70, 3), *range(190, 210)):
        for field in (*SCHEMAS[route].model_fields, "other"):
            await refused(client, route, f'{{"{field}": {"[" * depth}1{"]" * depth}}}')


# numbers

BAD_NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 400, "-" + "9" * 400, "9" * 5000, "1e400")


@each_route
@pytest.mark.parametrize("number", BAD_NUMBERS, ids=lambda number: number[:10])
async def test_no_field_takes_what_is_no_number(client, route, number):
    for field in SCHEMAS[route].model_fields:
        named = await refused(client, route, f'{{"{field}": {number}}}', ("invalid_json", "invalid_field"))
        assert named in (field, None)
        await refused(client, route, f'{{"{field}": [{number}]}}', ("invalid_json", "invalid_field"))


@pytest.mark.parametrize(
    ("route", "body"),
    [
        (IMAGES, '{"interpolate": {"from_seed": %s, "to_seed": 1}}'),
        (IMAGES, '{"interpolate": {"from_seed": 1, "to_seed": 2, "steps": %s}}'),
        (IMAGES, '{"latents": [[0, 0, 0, %s]]}'),
        ("/v1/completions", '{"logit_bias": {"1": %s}}'),
        ("/v1/completions", '{"prompt": [[%s]]}'),
        ("/v1/completions", '{"stream": true, "stream_options": {"include_usage": %s}}'),
    ],
)
async def test_nor_does_any_inner_field(client, route, body):
    for number in BAD_NUMBERS:
        await refused(client, route, body % number, ("invalid_json", "invalid_field"))


async def test_numbers_that_only_look_large(client):
    """What a number is worth counts, not how it is written."""
    for written in ("0e99999", "0." + "0" * 1000):
        assert (
            await client.post(TEXT, content=f'{{"max_tokens": 1, "temperature": {written}}}', headers=JSON)
        ).is_success
    for written in ("1e1", "10.0", "+10", "0x10", "010", "1_0", "\u0661"):
        await refused(client, IMAGES, f'{{"n": {written}}}', ("invalid_json", "invalid_field"))


# keys


async def test_of_equal_keys_the_last_counts_for_checks_and_for_work_alike(client):
    response = await client.post(IMAGES, content='{"seed": 1, "n": 1000, "seed": 2, "n": 1}', headers=JSON)
    assert response.headers["x-genserve-seed"] == "2"
    assert response.content == (await client.post(IMAGES, json={"seed": 2})).content
    assert await refused(client, IMAGES, '{"n": 1, "n": 1000}') == "n"
    assert await refused(client, TEXT, '{"prompt": "a", "prompt": 3}') == "prompt"


@each_route
async def test_a_crowd_of_faults_costs_no_more_than_one(client, route):
    """Each fault would become an object of some kilobytes, if all of them were listed."""
    fields = ",".join(f'"f{number}":0' for number in range(90_000))
    wrong = ",".join(['"x"'] * 250_000)
    bodies = [f"{{{fields}}}", f'{{"prompt":[{wrong}]}}', f'{{"prompt":[[{wrong}]]}}', f'{{"stop":[{wrong}]}}']
    bodies += [f'{{"latents":[{wrong}]}}', f'{{"logit_bias":{{{fields}}}}}']
    numbers = ",".join(f'"{number}":"x"' for number in range(80_000))
    bodies.append(f'{{"logit_bias":{{{numbers}}}}}')
    for body in bodies:
        assert len(body) < MEBIBYTE
        tracemalloc.start()
        try:
            await refused(client, route, body)
            assert tracemalloc.get_traced_memory()[1] < 100 * MEBIBYTE, body[:40]
        finally:
            tracemalloc.stop()


# strings

LONE = ("\\ud800", "\\udfff", "\\udc00\\ud800", "a\\ud83d")


@each_route
async def test_half_a_character_is_no_json(client, route):
    for half in LONE:
        for field in SCHEMAS[route].model_fields:
            await refused(client, route, f'{{"{field}": "{half}"}}', ("invalid_json",))
            await refused(client, route, f'{{"{field}": ["{half}"]}}', ("invalid_json",))
        await refused(client, route, f'{{"{half}": 1}}', ("invalid_json",))


@each_route
@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "\xff"}',
        b'{"model": "\xc0\xaf"}',  # an overlong slash
        b'{"model": "\xed\xa0\x80"}',  # half a character, raw
        b'\xef\xbb\xbf{"model": "x"}',
        '{"model": "x"}'.encode("utf-16"),
        '{"model": "x"}'.encode("utf-32"),
        b'{"model": "\x00"}',
        b'{"model": "\n"}',
        b"\x00",
        gzip.compress(b"{}", mtime=0),
    ],
    ids=repr,
)
async def test_what_is_not_utf_8_is_no_json(client, route, body):
    await refused(client, route, body, ("invalid_json",))


async def test_a_compressed_body_is_not_unpacked(client):
    headers = {**JSON, "Content-Encoding": "gzip"}
    response = await client.post(IMAGES, content=gzip.compress(b"{}" + b" " * 10_000_000), headers=headers)
    assert (response.status_code, fault(response)) == (400, ("invalid_json", None))


async def test_nul_is_a_character_like_any_other(client):
    assert await refused(client, IMAGES, '{"label": "kind 3\\u0000"}') == "label"
    assert await refused(client, "/v1/images/generations", '{"prompt": "kind 3\\u0000"}') == "prompt"
    body = {"model": "parrot", "prompt": "a\0b", "max_tokens": 3, "stop": "b"}
    assert (await client.post(TEXT, json=body)).json()["choices"][0]["text"] == "a\0"


async def test_characters_beyond_the_basic_plane(client):
    body = '{"model": "parrot", "prompt": "\\ud83d\\ude00", "max_tokens": 4}'
    response = await client.post(TEXT, content=body, headers=JSON)
    assert response.json()["choices"][0]["text"] == "\U0001f600"


# names

WALKS = (
    "../echo",
    "../../../../etc/passwd",
    "/etc/passwd",
    "./echo",
    "echo/",
    "echo/../echo",
    "echo/config.json",
    "..",
    ".",
    "~",
    "~root",
    "file:///etc/passwd",
    "..\\echo",
    "C:\\echo",
    "%2e%2e",
    "%2e%2e%2fecho",
    "echo%00",
    "echo\0",
    "echo\n",
    " echo",
    "ECHO",
    "e\u0301cho",
    "\u2025/echo",
    "*",
    "$HOME",
    "{}",
    "{name}",
)


class Files:
    """Files and folders that are opened or listed while it watches."""

    def __init__(self):
        self.opened = None
        sys.addaudithook(self._hook)  # for the life of the process: there is no way to take one back

    def _hook(self, event, arguments):
        if self.opened is not None and event in ("open", "os.listdir", "os.scandir"):
            self.opened.append(arguments[0])

    async def during(self, call):
        self.opened = []
        try:
            await call
            return self.opened
        finally:
            self.opened = None


@pytest.fixture(scope="session")
def files():
    return Files()


async def test_the_watch_sees_files(files, tmp_path):
    async def read():
        (tmp_path / "x").touch()
        list(tmp_path.iterdir())

    assert len(await files.during(read())) == 2


@each_route
@pytest.mark.parametrize("name", WALKS)
async def test_a_name_in_a_body_is_looked_up_and_nothing_else(client, files, route, name):
    async def ask():
        response = await client.post(route, json={"model": name})
        assert (response.status_code, fault(response)) == (404, ("model_not_found", "model"))

    await ask()  # what is imported at the first refusal is not meant
    assert await files.during(ask()) == []


@pytest.mark.parametrize("name", WALKS)
async def test_a_name_in_a_path_too(client, files, name):
    from urllib.parse import quote

    written = {f"/v1/models/{quote(name, safe='')}", f"/v1/models/{quote(quote(name, safe=''), safe='')}"}
    if name.isprintable() and not set(name) & set("?# \\"):
        written.add(f"/v1/models/{name}")

    async def ask():
        for path in written:
            scope = {
                "type": "http",
                "method": "GET",
                "path": path,
                "headers": [],
                "query_string": b"",
                "scheme": "http",
            }
            assert (await call(client.app, scope))[0] == 404, path

    await ask()
    assert await files.during(ask()) == []


async def call(app, scope):
    """Status and body of an answer, past all that an HTTP client would tidy up; raises what the application raises."""
    sent, left = [], [{"type": "http.request", "body": scope.get("body", b""), "more_body": False}]

    async def receive():
        return left.pop() if left else await asyncio.Event().wait()  # nobody leaves

    async def send(message):
        sent.append(message)

    scope = {"http_version": "1.1", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "root_path": "", **scope}
    await app({**scope, "raw_path": scope["path"].encode(), "state": {}}, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"host", b"[")],
        [(b"host", b"[::1")],
        [(b"host", b"a/v1/completions?x=")],
        [(b"host", b"\xff\xfe")],
        [(b"host", b"")],
        [(b"host", b"a" * 10_000)],
        [(b"host", b"a"), (b"host", b"b")],
        [(b"content-length", b"1")] * 2,
        [(b"x-request-id", b"\xff")],
        [(b"accept", b"\xff;q=\xff" * 1000)],
        [(b"accept", b"a/b;q=nan, */*;q=inf")],
        [(b"accept", b"," * 30_000)],
    ],
    ids=lambda headers: repr(headers)[:50],
)
@pytest.mark.parametrize(
    "query", [b"", b"\xff\xfe", b"a=" + b"%" * 1000, b"[" * 1000], ids=lambda query: repr(query)[:20]
)
async def test_strange_heads_are_answered(client, headers, query):
    """A good request, a bad one, and one that leads nowhere: an answer of ours, not the framework's last word."""
    head = [(b"content-type", b"application/json"), *headers]
    scope = {"type": "http", "method": "POST", "path": IMAGES, "headers": head, "query_string": query, "scheme": "http"}
    assert (await call(client.app, {**scope, "body": b'{"seed": 3}'}))[0] in (200, 406)
    status, content = await call(client.app, {**scope, "body": b"{"})
    assert (status, json.loads(content)["code"]) == (400, "invalid_json")
    status, content = await call(client.app, {**scope, "path": "/v1/nowhere"})
    assert (status, json.loads(content)["error"]["code"]) == (404, "route_not_found")


@pytest.mark.parametrize("names", [(name,) for name in WALKS if "\0" not in name] + [("echo", "../other/secret")])
def test_names_to_serve_don_t_walk(tmp_path, names):
    """One clear line, and nothing outside the folder of weights is found, though it is there."""
    fakes.write(tmp_path / "weights", "echo")
    fakes.write(tmp_path / "other", "secret")
    with pytest.raises(RegistryError) as caught:
        find_folders(tmp_path / "weights", names)
    assert "no weights folder" in str(caught.value)
    assert "(found: echo)" in str(caught.value)


async def test_a_walking_name_stops_the_start(settings, weights):
    fakes.write(weights.parent / "other", "secret")
    async with running(settings(models=("../other/secret",)), wait=False) as client:
        engine = client.app.state.engine
        await eventually(lambda: engine.failure is not None)
        assert "no weights folder ../other/secret" in engine.failure
        assert not engine.models


# sizes


@each_route
async def test_prompts_and_texts_as_long_as_a_body(client, route):
    """A prompt has to fit in its model, everything else in its own bound."""
    for field in ("prompt", "model", "label", "stop", "size", "format", "quality"):
        await refused(client, route, json.dumps({field: "x" * 1_000_000}))
        await refused(client, route, json.dumps({field: ["x" * 15_000] * 64}))


@pytest.mark.parametrize("route", [TEXT, "/v1/completions"])
async def test_stop_strings(client, route):
    for stop in ("", ["a", ""], "a" * 201, ["a"] * 5, ["a", "b" * 201], [], [[]], [None]):
        response = await client.post(route, json={**GOOD[TEXT], "stop": stop})
        if stop == []:
            assert response.is_success
        else:
            assert (response.status_code, fault(response)[0]) == (400, "invalid_field")
            assert (fault(response)[1] or "").startswith("stop")
    assert (await client.post(route, json={**GOOD[TEXT], "stop": ["a" * 200] * 4})).is_success


async def test_latents_are_refused_by_size_before_they_are_made_numbers(client):
    """A megabyte of numbers is worth no array and no seconds."""
    shapes = ([0] * 500_000, [[0] * 250_000] * 2, [[0]] * 250_000, [[]] * 300_000, [[0, 0, 0, 0]] * 65)
    for given in shapes:
        tracemalloc.start()
        try:
            body = json.dumps({"latents": given}, separators=(",", ":"))
            assert len(body) < MEBIBYTE
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            assert await refused(client, IMAGES, body) == "latents"
            assert tracemalloc.get_traced_memory()[1] - before < 80 * MEBIBYTE
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("shape", [(4,), (4, 1, 1), (2, 2), (1, 1, 4), (1,) * 20])
def test_as_many_latents_as_pictures_are_taken_in_every_shape(shape):
    """The bound counts numbers, not brackets."""
    info = ModelInfo(name="m", digest="0" * 64, latent_shape=shape)
    z = np.random.default_rng(0).standard_normal((64, *shape), np.float32)
    plan = plan_images(ImageRequest(latents=z.tolist()), info)
    np.testing.assert_array_equal(plan.job.inputs, z)
    with pytest.raises(InvalidField):
        plan_images(ImageRequest(latents=[*z.tolist(), z[0].tolist()]), info)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"n": 64, "scale": 3}, "scale"),
        ({"n": 5, "scale": 8, "seed": 1}, "scale"),
        ({"interpolate": {"from_seed": 1, "to_seed": 2, "steps": 64}, "scale": 2}, "scale"),
        ({"latents": [[0, 0, 0, 0]] * 64, "scale": 2}, "scale"),
    ],
)
@pytest.mark.parametrize("accept", ["*/*", "application/zip", "application/json", "image/webp"])
async def test_pixels_are_counted_over_all_pictures_however_asked_for(settings, body, field, accept):
    async with running(settings(max_pixels=4096 - 16)) as client:
        response = await client.post(IMAGES, json=body, headers={"Accept": accept})
        assert (response.status_code, fault(response)) == (400, ("invalid_field", field))
        size = {"n": body.get("n", 64), "size": f"{4 * body['scale']}x{4 * body['scale']}"}
        response = await client.post("/v1/images/generations", json=size)
        assert (response.status_code, fault(response)) == (400, ("invalid_field", "size"))
        images = client.app.state.telemetry.registry.get_sample_value("genserve_images_total", {"model": "echo"})
        assert not images, "refused before it was computed"


def generated(side, count, scale):
    """Pictures of noise, which no compression makes smaller, with four channels."""
    info = ModelInfo(name="noise", digest="0" * 64, image_shape=(side, side, 4), latent_shape=(4,))
    job = LatentJob("noise", np.zeros((count, 4), np.float32), np.zeros(count, np.int64))
    nothing = (None,) * count
    plan = Plan(info, job, None, nothing, nothing, ({},) * count, scale)
    rng = np.random.default_rng(0)
    return Generated(plan, rng.integers(256, size=(count, side, side, 4), dtype=np.uint8), "png", 0.0, 0.0, None)


def pack(made, packing):
    return made.files() if packing == "files" else made.packed(packing)


@pytest.mark.parametrize(
    ("packing", "most"),
    [("image", 5.0), ("zip", 4.5), ("json", 6.5), ("files", 4.0)],
)
@pytest.mark.parametrize(("side", "count", "scale"), [(1024, 1, 1), (128, 64, 1), (8, 4, 64), (16, 64, 8)])
def test_an_answer_takes_a_few_times_its_pixels(packing, most, side, count, scale):
    """So `max_pixels` bounds the memory of an answer: of 2**24 pixels of four bytes, 416 MiB while it is made."""
    made = generated(side, count, scale)
    pixels = count * (side * scale) ** 2
    assert pixels == MEBIBYTE
    pack(generated(4, 1, 1), packing)  # what is made once and kept is not meant
    tracemalloc.start()
    try:
        pack(made, packing)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most * pixels * 4, f"{peak / (pixels * 4):.2f}"


def test_sheets_of_webp_have_a_side_that_the_format_allows():
    made = dataclasses.replace(generated(4, 1, 1), image_format="webp")
    made.check_sides(1, MAX_WEBP_SIDE // 4)
    with pytest.raises(InvalidField, match="WebP holds at most 16383 pixels a side"):
        made.check_sides(1, MAX_WEBP_SIDE // 4 + 1)


@pytest.mark.parametrize("size", [300, 301, 5000])
async def test_logit_bias_is_bounded(client, size):
    """Each choice carries its own copy to the worker: 64 of them, many times over, would fill the link."""
    bias = {str(number % 260) if number < 260 else str(number): 0.0 for number in range(size)}
    body = {**GOOD[TEXT], "n": 64, "logit_bias": bias}
    assert await refused(client, "/v1/completions", json.dumps(body), ("invalid_field",)) == "logit_bias"


@pytest.mark.parametrize("key", ["01", "000000001", "+1", " 1", "1 ", "1_0", "1.0", "1e0", "\u0661", "-0", "", "0x1"])
async def test_logit_bias_names_each_token_in_one_way(client, key):
    body = {**GOOD[TEXT], "logit_bias": {key: 1}}
    assert await refused(client, "/v1/completions", json.dumps(body), ("invalid_field",)) == "logit_bias"


@pytest.mark.parametrize(
    "value", ["0", "-1", "nan", "inf", "-inf", "1e400", "3601", "", " ", "1,2", "0x10", "1s", "9" * 5000, "\xb2"]
)
@each_route
async def test_the_time_that_a_request_may_take(client, route, value):
    headers = {**JSON, "X-Request-Timeout": value.encode("latin-1")}
    response = await client.post(route, content=b"{}", headers=headers)
    assert (response.status_code, fault(response)) == (400, ("invalid_field", "X-Request-Timeout"))


# what the log says


@pytest.mark.parametrize("stream", [False, True])
async def test_the_log_never_repeats_a_client(client, caplog, stream):
    """At its most talkative, for answers, refusals and failures alike."""
    secret = "x7secret7x"
    caplog.set_level(logging.DEBUG)
    bodies = {
        TEXT: [
            {"prompt": secret},
            {"prompt": secret * 100},
            {"prompt": f"\x01P{secret}"},
            {"prompt": f"\x01S{secret}"},
        ],
        "/v1/completions": [
            {"prompt": secret, "user": secret},
            {"logit_bias": {secret: 1}},
            {"prompt": f"\x01N{secret}"},
        ],
        IMAGES: [{"label": secret}, {"model": secret}, {secret: 1}, {"latents": [fakes.RAISE, 0, 0, 0], "label": 1}],
        "/v1/images/generations": [{"prompt": secret}, {"user": secret}, {"size": secret}],
    }
    for route, several in bodies.items():
        for body in several:
            extra = (
                {"model": "digest", "stream": stream, "max_tokens": 20}
                if "prompt" in body and "images" not in route
                else {}
            )
            await client.post(
                f"{route}?{secret}", json={**extra, **body}, headers={"X-Request-Id": "r1", "Cookie": secret}
            )
        await client.post(route, content=f'{{"model": "{secret}', headers=JSON)
    await client.get(f"/v1/models/{secret}")
    await client.get(f"/{secret}?{secret}")
    ours = [record for record in caplog.records if record.name.startswith("genserve")]
    assert len(ours) > 10
    assert not any(secret in record.getMessage() + str(record.exc_info) for record in ours)


# weights folders


@pytest.fixture
def folder(tmp_path):
    return fakes.write(tmp_path, "small")


def tensors(header, data=b""):
    packed = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed + data


def entry(dtype="F32", shape=(4,), start=0, end=16):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


HOSTILE = {
    "a header of 2**63 bytes": struct.pack("<Q", 1 << 63) + b"{}",
    "a header as long as the file says it may not be": struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}",
    "a header one byte longer than the file": struct.pack("<Q", 3) + b"{}",
    "no header": b"",
    "half a length": b"\x02\0\0",
    "not JSON": tensors(b"\xff\xff"),
    "deep JSON": tensors(b"[" * 100_000),
    "a deep entry": tensors(b'{"weight":' * 10_000 + b"1" + b"}" * 10_000),
    "data beyond the file": tensors({"weight": entry(end=1 << 40)}, b"\0" * 16),
    "data before its beginning": tensors({"weight": entry(start=16, end=0)}, b"\0" * 16),
    "data at a negative place": tensors({"weight": entry(start=-16, end=0)}, b"\0" * 16),
    "a hole": tensors({"weight": entry(start=16, end=32)}, b"\0" * 32),
    "data that nobody owns": tensors({"weight": entry()}, b"\0" * 32),
    "overlapping data": tensors({"weight": entry(), "other": entry()}, b"\0" * 16),
    "more elements than data": tensors({"weight": entry(shape=(5,))}, b"\0" * 16),
    "a product that overflows": tensors({"weight": entry(shape=(1 << 62, 4))}, b"\0" * 16),
    "a shape that overflows": tensors({"weight": entry(shape=(1 << 64,))}, b"\0" * 16),
    "a negative shape": tensors({"weight": entry(shape=(-4,))}, b"\0" * 16),
    "a shape of nothing and very much": tensors({"weight": entry(shape=(0, 1 << 40), end=0)}),
    "very many dimensions": tensors({"weight": entry(shape=[1] * 10_000 + [4])}, b"\0" * 16),
    "an unknown dtype": tensors({"weight": entry(dtype="F33")}, b"\0" * 16),
    "integers": tensors({"weight": entry(dtype="I32")}, b"\0" * 16),
    "bytes": tensors({"weight": entry(dtype="U8", shape=(16,))}, b"\0" * 16),
    "another shape": tensors({"weight": entry(shape=(2, 2))}, b"\0" * 16),
    "another name": tensors({"../weight": entry()}, b"\0" * 16),
    "nothing": tensors({}),
    "a name twice": tensors(b'{"weight":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"weight":{}}', b"\0" * 16),
    "not a number": tensors({"weight": entry()}, struct.pack("<4f", 0, 0, 0, float("nan"))),
    "a pickle": b"\x80\x02c__builtin__\neval\n(S'1/0'\ntR.",
    "a ZIP archive": b"PK\x03\x04" + b"\0" * 26,
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_weights_are_refused_in_one_line(folder, content):
    """Their digest and size are right: whoever makes a folder can make those too."""
    rewrite_weights(folder, content)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(folder)
    assert "model.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < LARGEST_REFUSAL


def test_the_header_is_checked_before_the_file_is_read(folder):
    """A file of a tebibyte, all hole: reading it through would take minutes."""
    path = folder / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 1 << 39))
        file.truncate(1 << 40)
    config = json.loads((folder / "config.json").read_text())
    config["weights"]["size"] = 1 << 40
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="header does not fit"):
        checkpoint.load(folder)


def configured(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("dcgan", {"channels": [1 << 20, 1 << 20], "base_size": 7, "image_channels": 1}),
        ("conv-gan", {"latent_dim": 1 << 40, "num_classes": 10}),
        ("gpt", {"vocab_size": 1 << 40, "max_length": 512, "width": 256, "layers": 6, "heads": 4}),
        ("gpt", {"vocab_size": 256, "max_length": 64, "width": 64, "layers": 1 << 40, "heads": 4}),
        ("gpt", {"vocab_size": 256, "max_length": 1 << 34, "width": 64, "layers": 1, "heads": 4}),
    ],
)
@pytest.mark.timeout(60)
def test_a_configuration_can_t_ask_for_more_than_its_file_holds(folder, architecture, config):
    """A network of terabytes, or of layers without end, beside a file of a few hundred bytes."""
    configured(folder, architecture=architecture, config=config)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "card",
    [{"x": float("nan")}, {"x": float("inf")}, {"x": 1 << 70}, {"x": json.loads("[" * 600 + "]" * 600)}],
    ids=["nan", "infinity", "long", "deep"],
)
async def test_a_card_that_can_t_be_told_is_refused(settings, weights, card):
    """It is told to whoever asks, as JSON, and crosses from the worker before: both have limits."""
    fakes.write(weights, "lying")
    configured(weights / "lying", card=card)
    async with running(settings(broken_models="skip")) as client:
        shown = (await client.get("/v1/models/lying")).json()["genserve"]
        assert shown["status"] == "failed"
        assert (await client.get("/v1/models")).status_code == 200
        assert (await client.post(IMAGES, json={"seed": 1})).status_code == 200


async def test_a_card_tells_nothing_but_itself(settings, weights):
    """What the service knows of a model is not the folder's to say."""
    configured(weights / "echo", card={"digest": "0" * 64, "status": "failed", "parameters": 7, "licence": "none"})
    async with running(settings()) as client:
        shown = (await client.get("/v1/models/echo")).json()["genserve"]
        info = client.app.state.engine.models["echo"]
        assert (shown["status"], shown["digest"], shown["parameters"]) == ("ready", info.digest, info.parameters)
        assert shown["licence"] == "none"
