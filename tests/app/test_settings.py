"""Settings come from arguments, then the environment, then defaults, and wrong ones are refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings

ROOT = Path(__file__).parents[2]


def test_defaults_are_safe():
    settings = Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.weights == Path("weights")
    assert settings.broken_models == "stop"
    assert settings.models == ()
    assert settings.devices == ("auto",)


def test_environment_and_arguments(monkeypatch):
    monkeypatch.setenv("GENSERVE_PORT", "9000")
    monkeypatch.setenv("GENSERVE_MODELS", "a, b,,")
    monkeypatch.setenv("GENSERVE_DEVICE", "cuda:0,cpu")
    settings = Settings(port=9001)
    assert settings.port == 9001
    assert settings.models == ("a", "b")
    assert settings.devices == ("cuda:0", "cpu")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", "70000"),
        ("port", "x"),
        ("device", "gpu"),
        ("device", "cpu,"),
        ("device", "cuda:x"),
        ("dtype", "fp16"),
        ("dtype", "auto,smollm2=q4"),
        ("threads", "-1"),
        ("max_batch", "0"),
        ("max_queue", "63"),
        ("broken_models", "ignore"),
        ("drain_seconds", "-1"),
        ("log_level", "loud"),
    ],
)
def test_wrong_values_are_refused(monkeypatch, field, value):
    monkeypatch.setenv(f"GENSERVE_{field.upper()}", value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert [fault["loc"][0] for fault in caught.value.errors()] in ([field], [f"GENSERVE_{field.upper()}"])


def test_unknown_and_late_changes_are_refused():
    with pytest.raises(ValidationError):
        Settings(colour="red")
    with pytest.raises(ValidationError):
        Settings().port = 1


def test_queue_holds_the_largest_request():
    """Else a valid request for 64 pictures could never be admitted."""
    with pytest.raises(ValidationError):
        Settings(max_queue=63)
    assert Settings(max_queue=64).max_queue == 64


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented(name):
    assert Settings.model_fields[name].description
    assert f"GENSERVE_{name.upper()}" in (ROOT / "docs/operations.md").read_text()
