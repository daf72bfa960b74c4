"""Errors have one of two shapes, never the framework's."""

import pytest

from app.errors import (
    ComputeFailed,
    DeadlineExceeded,
    Draining,
    InvalidField,
    KillsWorker,
    NotReady,
    Overloaded,
    WorkerDied,
)

NATIVE, OPENAI = "/v1/images/generate", "/v1/images/generations"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "route_not_found"),
        ("GET", NATIVE, 405, "method_not_allowed"),
        ("DELETE", "/health/live", 405, "method_not_allowed"),
    ],
)
async def test_starlette_s_own_errors_are_problems(client, method, path, status, code):
    response = await client.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == code
    assert response.json()["request_id"] == response.headers["x-request-id"]
    if status == 405:
        assert response.headers["allow"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/nowhere"), ("PUT", "/v1/models"), ("GET", OPENAI)])
async def test_openai_routes_have_openai_s_shape(client, method, path):
    error = (await client.request(method, path)).json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Overloaded("full", retry_after=1.2345), "rate_limit_error"),
        (NotReady("loading", retry_after=5), "server_error"),
        (Draining("closing", retry_after=0.0001), "server_error"),
        (WorkerDied("gone"), "server_error"),
    ],
)
@pytest.mark.parametrize("path", [NATIVE, OPENAI])
async def test_when_to_come_back(client, monkeypatch, error, kind, path):
    def refuse(*_):
        raise error

    monkeypatch.setattr(client.app.state.engine, "submit", refuse)
    response = await client.post(path, json={})
    assert response.status_code == error.status
    if error.retry_after is None:
        assert "retry-after" not in response.headers
    else:
        assert int(response.headers["retry-after"]) >= max(1, error.retry_after)
        assert int(response.headers["retry-after-ms"]) >= max(1, error.retry_after * 1000)
    if path == OPENAI:
        assert response.json()["error"]["type"] == kind
        assert response.json()["error"]["code"] == error.code
    else:
        assert response.json()["code"] == error.code


@pytest.mark.parametrize("path", [NATIVE, OPENAI])
async def test_what_nobody_foresaw_tells_nothing(client, monkeypatch, path):
    def bug(*_):
        raise RuntimeError("a secret path")

    monkeypatch.setattr(client.app.state.engine, "submit", bug)
    response = await client.post(path, json={})
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "internal_error" in response.text
    assert response.headers["x-request-id"]
    metrics = (await client.get("/metrics")).text
    assert f'code="500",model="echo",route="{path}"' in metrics


@pytest.mark.parametrize(
    ("error", "retry"),
    [
        (Overloaded("full", retry_after=1), "true"),
        (NotReady("loading", retry_after=5), "true"),
        (ComputeFailed("not finite"), "false"),
        (KillsWorker("twice"), "false"),
        (DeadlineExceeded("late"), None),
        (InvalidField("n: no", field="n"), "false"),
    ],
)
@pytest.mark.parametrize("path", [NATIVE, OPENAI])
async def test_whether_to_come_back(client, monkeypatch, error, retry, path):
    """What OpenAI's clients obey; the native routes have statuses and Retry-After."""

    def refuse(*_):
        raise error

    monkeypatch.setattr(client.app.state.engine, "submit", refuse)
    response = await client.post(path, json={})
    assert response.headers.get("x-should-retry") == (retry if path == OPENAI else None)


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/nowhere"), ("PUT", "/v1/models"), ("GET", "/v1/models/x")])
async def test_what_is_not_there_is_not_there_later(client, method, path):
    assert (await client.request(method, path)).headers["x-should-retry"] == "false"


async def test_a_bug_may_be_gone_the_next_time(client, monkeypatch):
    def bug(*_):
        raise RuntimeError

    monkeypatch.setattr(client.app.state.engine, "submit", bug)
    assert "x-should-retry" not in (await client.post(OPENAI, json={})).headers
