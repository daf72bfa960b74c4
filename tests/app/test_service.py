"""Which model a request means."""

import pytest

from app.engine.engine import Engine
from app.engine.jobs import ModelInfo, WorkerConfig
from app.errors import ModelNotFound
from app.service import Service
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


def test_the_first_model_for_a_prompt(service):
    """With a prompt the first that draws captions; decoders of codes come last, and are never for text."""
    codes, scribe = ModelInfo("codes", codes=9), ModelInfo("scribe", kind="sequence", output={"kind": "image"})
    voice = ModelInfo("voice", kind="sequence", output={"kind": "audio"})
    service.engine.models = {"codes": codes, "scribe": scribe, "voice": voice, "m": INFO}
    assert (service.picture_model(None), service.picture_model(None, "a dog")) == (INFO, scribe)
    assert (service.picture_model("codes", "a dog"), service.picture_model("m", "")) == (codes, INFO)
    for name in ("voice", "nobody"):
        with pytest.raises(ModelNotFound, match=r"\(served: codes, scribe, m\)"):
            service.picture_model(name)
    with pytest.raises(ModelNotFound, match=r"that makes text is served \(served: none\)"):
        service.engine.model(None, "text")
    del service.engine.models["m"], service.engine.models["scribe"]
    assert service.picture_model(None, "a dog") == codes
