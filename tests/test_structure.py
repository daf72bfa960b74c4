"""What is documented is what exists, and the rooms stay apart."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.main import create_app
from app.settings import Settings
from app.telemetry import Telemetry

ROOT = Path(__file__).parents[1]
API = ROOT / "docs/api.md"


@pytest.fixture(scope="module")
def document():
    return create_app(Settings()).openapi()


def test_every_route_is_documented(document):
    text = API.read_text()
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in text, f"docs/api.md does not mention {method.upper()} {path}"


def test_openapi_is_complete(document):
    """Every reference leads somewhere, and the framework's own error shape is nowhere."""
    text = str(document)
    schemas = document["components"]["schemas"]
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in schemas
    assert "HTTPValidationError" not in text
    for path in ("generate", "generations", "encode", "reconstruct"):
        operation = document["paths"][f"/v1/images/{path}"]["post"]
        assert operation["requestBody"]["content"]["application/json"]["schema"]
        assert {"400", "404", "413", "415", "429", "500", "503"} <= set(operation["responses"])


def test_metrics_are_the_catalogue_s(document):
    names = [metric.name for metric in Telemetry().registry.collect()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"genserve_[a-z]+(_[a-z]+)*", name) for name in names)


def test_the_http_side_imports_no_torch():
    """In a fresh interpreter: this one has imported it long ago."""
    found = "any(name.split('.')[0] in ('torch', 'models') for name in sys.modules)"
    code = f"import sys, app.cli, app.main, app.server; sys.exit({found})"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_nothing_is_unpickled():
    """Weights are data. `torch.load` belongs to training, with weights_only."""
    for folder in ("app", "models"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not re.search(r"\bimport pickle\b|torch\.load\(|\beval\(compile|\bexec\(", path.read_text()), path
