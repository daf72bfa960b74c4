"""What is served, in OpenAI's shape, with each model's card."""

import dataclasses

import pytest

from tests import fake_sequences, fakes
from tests.conftest import running


async def test_a_model_shows_its_card(client):
    info = client.app.state.engine.models["echo"]
    model = (await client.get("/v1/models/echo")).json()
    assert (model["id"], model["object"], model["owned_by"]) == ("echo", "model", "genserve")
    assert model["created"] == info.created
    card = model["genserve"]
    assert card["status"] == "ready"
    assert card["kind"] == "latent"
    assert card["architecture"] == "echo"
    assert card["digest"] == info.digest
    assert card["parameters"] == 4
    assert card["latent_shape"] == [4]
    assert card["labels"] == list(fakes.LABELS)
    assert card["image"] == {"height": 4, "width": 4, "channels": 1}
    assert card["batch_buckets"] == list(info.buckets)
    assert card["license"] == "none"


async def test_a_text_model_shows_what_it_takes(text_client, tmp_path):
    engine, completer = text_client.app.state.engine, text_client.app.state.completer
    card = (await text_client.get("/v1/models/digest")).json()["genserve"]
    assert (card["kind"], card["dtype"], card["chat"]) == ("sequence", "float32", False)
    assert (card["vocab_size"], card["max_length"]) == (fake_sequences.VOCAB, 128)
    assert (card["stop_tokens"], card["start_tokens"]) == ([fake_sequences.EOS], [])
    template = tmp_path / "a secret place.jinja"
    template.write_text("{{ messages }}")
    engine.models["digest"] = dataclasses.replace(engine.models["digest"], chat_template=str(template))
    assert completer.chats(engine.models["digest"])
    answer = await text_client.get("/v1/models/digest")
    assert answer.json()["genserve"]["chat"] is True
    assert "secret" not in answer.text
    assert str(tmp_path) not in answer.text


async def test_the_list_holds_the_same_objects(client):
    answer = (await client.get("/v1/models")).json()
    assert answer["object"] == "list"
    assert answer["data"] == [(await client.get("/v1/models/echo")).json()]


@pytest.mark.parametrize("name", ["other", "x" * 5000, "%00", "..%2fecho"])
async def test_unknown_models(client, name):
    response = await client.get(f"/v1/models/{name}")
    assert response.status_code == 404
    assert len(response.content) < 8000


async def test_models_that_failed_to_load_are_shown(settings, weights):
    fakes.write(weights, "bad")
    (weights / "bad" / "model.safetensors").write_bytes(b"")
    async with running(settings(broken_models="skip")) as client:
        listed = {model["id"]: model["genserve"] for model in (await client.get("/v1/models")).json()["data"]}
        assert listed["echo"]["status"] == "ready"
        assert listed["bad"]["status"] == "failed"
        assert "truncated" in listed["bad"]["error"]
        assert (await client.get("/v1/models/bad")).json()["genserve"]["status"] == "failed"
        refused = await client.post("/v1/images/generate", json={"model": "bad"})
        assert (refused.status_code, refused.json()["code"]) == (404, "model_not_found")
        assert (await client.post("/v1/images/generate", json={})).headers["x-genserve-model"].startswith("echo@")
        health = (await client.get("/health/ready")).json()
        assert health["models"] == {"bad": False, "echo": True}


async def test_no_models_while_loading(settings, weights, tmp_path):
    gate = tmp_path / "build_gate"
    fakes.write(weights, "slow", build_gate=str(gate))
    gate.touch()
    async with running(settings(), wait=False) as client:
        try:
            for path in ("/v1/models", "/v1/models/echo"):
                response = await client.get(path)
                assert response.status_code == 503
                assert response.json()["error"]["code"] == "not_ready"
                assert response.headers["retry-after"]
        finally:
            gate.unlink()
