"""Liveness and readiness tell the truth in every state."""

from tests import fakes
from tests.conftest import running
from tests.serving import eventually


async def health(client):
    live = await client.get("/health/live")
    assert (live.status_code, live.json()) == (200, {"status": "alive"})
    ready = await client.get("/health/ready")
    return ready.status_code, ready.json()


async def test_ready(client):
    assert await health(client) == (200, {"status": "ready", "models": {"echo": True}})


async def test_loading(settings, weights, tmp_path):
    gate = tmp_path / "build_gate"
    fakes.write(weights, "slow", build_gate=str(gate))
    gate.touch()
    async with running(settings(), wait=False) as client:
        assert await health(client) == (503, {"status": "loading"})
        refused = await client.post("/v1/images/generate", json={})
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
        assert int(refused.headers["retry-after"]) >= 1
        gate.unlink()
        await eventually(lambda: client.app.state.engine.ready)
        assert (await health(client))[0] == 200


async def test_draining(client):
    await client.app.state.engine.drain(0)
    assert await health(client) == (503, {"status": "draining", "models": {"echo": True}})
    refused = await client.post("/v1/images/generate", json={})
    assert (refused.status_code, refused.json()["code"]) == (503, "draining")


async def test_failed(settings, weights):
    (weights / "echo" / "model.safetensors").unlink()
    async with running(settings(), wait=False) as client:
        await eventually(lambda: client.app.state.engine.failure is not None)
        status, answer = await health(client)
        assert (status, answer["status"]) == (503, "failed")
        assert "model.safetensors: missing" in answer["detail"]
        refused = await client.post("/v1/images/generate", json={})
        assert (refused.status_code, refused.json()["code"]) == (503, "worker_died")
