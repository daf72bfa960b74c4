"""A probe after long idleness sees the engine compute, or says why it did not."""

import asyncio

from app.engine.canary import Canary
from app.errors import Overloaded


async def idle(client, seconds=0.0):
    canary = Canary(client.app.state.engine, idle_seconds=seconds)
    client.app.state.canary = canary
    return canary


async def test_readiness_runs_a_small_job_after_idleness(client):
    await idle(client)
    engine = client.app.state.engine
    before = engine.computed
    assert (await client.get("/health/ready")).status_code == 200
    assert engine.computed > before
    assert engine.in_flight == 0


async def test_text_models_too(text_client):
    engine = text_client.app.state.engine
    for name, info in list(engine.models.items()):
        if info.kind == "latent":
            del engine.models[name]
    assert await (await idle(text_client)).trouble() is None
    assert engine.in_flight == 0


async def test_recent_work_is_proof_enough(client, monkeypatch):
    canary = await idle(client, seconds=1e6)
    monkeypatch.setattr(client.app.state.engine, "submit", None)
    assert await canary.trouble() is None


async def test_probes_at_once_share_a_job(client, monkeypatch):
    canary, engine, jobs = await idle(client), client.app.state.engine, []
    submit = engine.submit
    monkeypatch.setattr(engine, "submit", lambda *given: jobs.append(given) or submit(*given))
    assert await asyncio.gather(*(canary.trouble() for _ in range(5))) == [None] * 5
    assert len(jobs) == 1


async def test_a_job_that_fails_makes_it_unresponsive(client, monkeypatch):
    from app.engine import canary as module
    from app.engine.terms import Terms

    await idle(client)
    monkeypatch.setattr(module, "TERMS", Terms("canary", 1e-9, lambda: b"canary"))
    monkeypatch.setattr(client.app.state.engine, "_flush", lambda: None)  # nothing reaches the worker
    answer = await client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["status"] == "unresponsive"
    assert "not there in" in answer.json()["detail"]


async def test_busy_is_not_broken(client, monkeypatch):
    canary = await idle(client)

    def refuse(*given):
        raise Overloaded("full", retry_after=1.0)

    monkeypatch.setattr(client.app.state.engine, "submit", refuse)
    assert await canary.trouble() is None


async def test_no_model_no_readiness(client):
    canary = await idle(client)
    client.app.state.engine.models.clear()
    assert await canary.trouble() == "no model is served"
