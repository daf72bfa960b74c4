"""Which model a request means, and how long it has."""

import asyncio

import pytest

from app.engine.engine import Engine
from app.engine.jobs import ModelInfo, WorkerConfig
from app.engine.terms import Terms
from app.errors import DeadlineExceeded, ModelNotFound
from app.service import Service, _left
from app.telemetry import Telemetry

INFO = ModelInfo("m", digest="0" * 64, latent_shape=(2, 3), num_classes=4, labels=("a", "b", "c", "d"))


@pytest.fixture
def service(monkeypatch):
    engine = Engine([WorkerConfig("w")], max_queue=64, telemetry=Telemetry(), on_failure=lambda: None)
    monkeypatch.setattr(engine, "check_open", lambda: None)
    service = Service(engine, Telemetry(), 1 << 20)
    yield service
    service.close()


def test_the_first_model_that_makes_pictures(service):
    with pytest.raises(ModelNotFound):
        service.picture_model(None)
    text = ModelInfo("a-text", kind="sequence")
    service.engine.models = {"a-broken": ModelInfo("a-broken", error="x"), "a-text": text, "m": INFO}
    assert service.picture_model(None) == INFO
    with pytest.raises(ModelNotFound, match="a-text"):
        service.picture_model("a-text")


def test_the_first_model_that_encodes(service):
    broken = ModelInfo("a-broken", error="x", encode_buckets=(1,))
    service.engine.models = {"a-broken": broken, "m": INFO}
    for name in (None, "m", "other"):
        with pytest.raises(ModelNotFound, match=r"that encodes is served \(served: none\)") as caught:
            service.encoding_model(name)
        assert caught.value.field == "model"
    vae = ModelInfo("vae", encode_buckets=(1,), encode_seconds=(0.1,))
    service.engine.models["vae"] = vae
    assert service.encoding_model(None) == service.encoding_model("vae") == vae
    with pytest.raises(ModelNotFound, match=r"no model 'm' that encodes is served \(served: vae\)"):
        service.encoding_model("m")


async def test_what_is_done_in_steps_has_one_deadline():
    now = asyncio.get_running_loop().time()
    assert 0 < _left(Terms(seconds=60.0), now + 5.0).seconds <= 5.0
    with pytest.raises(DeadlineExceeded, match="not there in 60 s"):
        _left(Terms(seconds=60.0), now - 0.1)
