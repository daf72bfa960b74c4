"""Every answer carries an id; every request is counted under its route."""

import asyncio
import re

import httpx
import pytest
from starlette.requests import ClientDisconnect

from app.errors import Overloaded
from app.routes.connection import ClientLeft
from app.routes.envelope import Envelope
from app.telemetry import Telemetry
from tests import fakes
from tests.serving import eventually, metric


async def test_a_fresh_id_for_each_request(client):
    ids = {(await client.get(path)).headers["x-request-id"] for path in ("/health/live", "/health/live", "/nowhere")}
    assert len(ids) == 3
    assert all(re.fullmatch(r"[0-9a-f]{32}", request_id) for request_id in ids)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2_X", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("<", False), ("", False)],
)
async def test_the_client_s_own_id_when_it_is_harmless(client, given, kept):
    response = await client.get("/health/live", headers={"X-Request-Id": given})
    assert (response.headers["x-request-id"] == given) == kept
    assert response.headers.get_list("x-request-id") == [response.headers["x-request-id"]]


async def test_requests_are_counted_by_route_model_and_code(client):
    await client.post("/v1/images/generate", json={})
    await client.post("/v1/images/generate", json={"n": 0})
    await client.get("/v1/models/echo")
    await client.get("/v1/models/other")
    for i in range(3):
        await client.get(f"/made-up/{i}")
    text = (await client.get("/metrics")).text
    count = "genserve_requests_total"
    assert metric(text, count, route="/v1/images/generate", model="echo", code="200") == 1
    assert metric(text, count, route="/v1/images/generate", code="400") == 1
    assert metric(text, count, route="/v1/models/{name}", code="200") == 1
    assert metric(text, count, route="/v1/models/{name}", code="404") == 1
    assert metric(text, count, route="unmatched", code="404") == 3, "paths that nobody serves make one series"
    assert "made-up" not in text


async def test_a_client_that_leaves_is_a_499_and_its_rows_vanish(client, gate):
    """The HTTP side of contract 4, in process; with real sockets in tests/test_server.py."""
    engine = client.app.state.engine
    held = asyncio.ensure_future(client.post("/v1/images/generate", json={"latents": [fakes.GATE, 0, 0, 0]}))
    await eventually(lambda: fakes.held(gate).exists())
    left = asyncio.Event()

    async def leave(scope_type="http.disconnect"):
        await left.wait()
        return {"type": "http.disconnect"}

    messages = iter([{"type": "http.request", "body": b'{"n": 64}', "more_body": False}])
    sent = []

    async def receive():
        return next(messages, None) or await leave()

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/v1/images/generate", "raw_path": b"/v1/images/generate", "query_string": b"", "root_path": "",
        "headers": [(b"content-type", b"application/json")], "client": ("test", 1), "server": ("test", 80),
        "state": {},
    }  # fmt: skip
    departing = asyncio.ensure_future(client.app(scope, receive, send))
    await eventually(lambda: engine.in_flight >= 2)
    left.set()
    await departing
    assert sent == []
    gate.unlink()
    assert (await held).status_code == 200
    text = (await client.get("/metrics")).text
    assert metric(text, "genserve_requests_total", code="499") == 1
    assert metric(text, "genserve_cancelled_total", model="echo") == 1
    assert metric(text, "genserve_images_total", model="echo") == 1, "the 64 were never computed"
    assert metric(text, "genserve_queue_depth") == 0


@pytest.mark.parametrize("error", [ClientLeft, ClientDisconnect])
async def test_departed_clients_are_no_errors(error):
    telemetry = Telemetry()

    async def app(scope, receive, send):
        raise error

    async with httpx.AsyncClient(transport=httpx.ASGITransport(_complete(Envelope(app, telemetry, {})))) as client:
        await client.get("http://test/")
    assert (
        telemetry.registry.get_sample_value(
            "genserve_requests_total", {"route": "unmatched", "model": "", "code": "499"}
        )
        == 1
    )


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(Overloaded("full"), 429, "overloaded"), (RuntimeError("a bug"), 500, "internal_error")],
)
async def test_errors_of_a_route_that_is_called_directly(error, status, code):
    async def endpoint(request):
        raise error

    telemetry = Telemetry()
    envelope = Envelope(None, telemetry, {("POST", "/v1/images/generate"): endpoint})
    transport = httpx.ASGITransport(envelope, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport) as client:
        response = await client.post("http://test/v1/images/generate", headers={"X-Request-Id": "mine"})
    assert (response.status_code, response.json()["code"], response.headers["x-request-id"]) == (status, code, "mine")
    labels = {"route": "/v1/images/generate", "model": "", "code": str(status)}
    assert telemetry.registry.get_sample_value("genserve_requests_total", labels) == 1


async def test_a_bug_in_a_route_that_is_called_directly_reaches_the_server_s_log():
    async def endpoint(request):
        raise RuntimeError("a bug")

    envelope = Envelope(None, Telemetry(), {("POST", "/v1/images/generate"): endpoint})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(envelope)) as client:
        with pytest.raises(RuntimeError, match="a bug"):
            await client.post("http://test/v1/images/generate")


def _complete(app):
    """httpx wants an answer even where nobody would read it."""

    async def complete(scope, receive, send):
        await app(scope, receive, send)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    return complete


async def test_a_server_that_gives_up_a_request_leaves_no_trace_in_the_queue(client, gate):
    """uvicorn cancels what is still running at the end of its patience."""
    request = asyncio.ensure_future(client.post("/v1/images/generate", json={"latents": [fakes.GATE, 0, 0, 0]}))
    await eventually(lambda: fakes.held(gate).exists())
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await asyncio.sleep(0)
    assert client.app.state.engine.in_flight == 0
    gate.unlink()
