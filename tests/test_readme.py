"""What the README tells a stranger to type is typed here, in a folder outside the repository."""

import json
import os
import re
import shlex
import subprocess
import sys

import httpx
import pytest

from app.schemas.images import ImageRequest
from app.schemas.text import TextRequest
from tests.conftest import COMMITTED
from tests.serving import PATIENCE, ROOT, serving

TEXT = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def section(title):
    """The text under a heading, up to the next of its kind."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"the README has no section {title!r}"
    return found[1]


def blocks(text, language):
    return [code for found, code in BLOCK.findall(text) if found == language]


@pytest.fixture
def typed(tmp_path):
    """PATH with `python` and `genserve` of this interpreter first, as in an activated environment."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, arguments in {"python": "", "genserve": " -m app.cli"}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{arguments} "$@"\n')
        (programs / name).chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GENSERVE_", "PYTHON"))}
    return {**clean, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


@pytest.mark.timeout(300)
def test_serve_your_own_generator(typed, tmp_path):
    """Four steps, as they stand; then the pictures are there, and the same seed gives the same ones."""
    text = section("Serve your own generator")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    files = re.findall(r"`(\w+\.py)`", text)
    codes = blocks(text, "python")
    assert files == ["my_models.py", "make_weights.py"]
    for name, code in zip(files, codes, strict=True):
        (folder / name).write_text(code)
    make, serve = blocks(text, "sh")
    done = subprocess.run(
        ["sh", "-euc", make], cwd=folder, env=typed, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (folder / "my-weights" / "tiny").iterdir()} >= {"config.json", "model.safetensors"}

    program, command, *flags = shlex.split(serve)
    assert (program, command) == ("genserve", "serve")
    exported = dict(re.findall(r"^export (\w+)=(\S+)$", make, re.MULTILINE))
    flags[flags.index("--weights") + 1] = str(folder / "my-weights")
    env = {**exported, "PYTHONPATH": f"{ROOT}:{folder}"}
    with serving(*flags, env=env) as server:
        first, again, other = (
            httpx.post(f"{server.url}/v1/images/generate", json={"seed": seed}, timeout=PATIENCE) for seed in (7, 7, 8)
        )
        assert first.status_code == 200, first.text
        assert first.headers["x-genserve-model"].startswith("tiny@")
        assert first.content == again.content != other.content
        assert first.content[16:24] == (16).to_bytes(4, "big") * 2, "a PNG's width and height"


def curls(text):
    """Path and body of each curl call."""
    for code in blocks(text, "sh"):
        for line in code.splitlines():
            words = shlex.split(line)
            if words and words[0] == "curl":
                url = next(word for word in words if word.startswith("localhost:8000"))
                assert "Content-Type: application/json" in words
                yield url.removeprefix("localhost:8000"), words[words.index("-d") + 1]


def test_the_quick_start_s_bodies_are_valid():
    schemas = {"/v1/images/generate": ImageRequest, "/v1/text/complete": TextRequest}
    asked = list(curls(section("Quick start")))
    assert {path for path, _ in asked} == set(schemas)
    for path, body in asked:
        schemas[path].model_validate_json(body)


OTHERS = {"emoji-dalle": (256, 256), "voice-wavenet": None, "info-gan": (224, 224)}


@pytest.mark.timeout(300)
def test_captions_speech_and_controls_are_answered():
    """A sheet of four pictures of 32 x 32, four times as large; a WAV file; a picture."""
    calls = list(curls(section("Captions, speech, controls")))
    assert len(calls) == len(OTHERS)
    models = ("emoji-vq", *OTHERS)
    if missing := [name for name in models if not (COMMITTED / name / "model.safetensors").is_file()]:
        pytest.skip(f"weights/{', weights/'.join(missing)} is not in this checkout")
    with serving("--weights", str(COMMITTED), "--models", ",".join(models)) as server:
        for (path, body), (model, sides) in zip(calls, OTHERS.items(), strict=True):
            headers = {"Content-Type": "application/json"}
            answer = httpx.post(f"{server.url}{path}", content=body, headers=headers, timeout=PATIENCE)
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-genserve-model"].startswith(f"{model}@")
            if sides is None:
                assert answer.content[:4] == b"RIFF"
            else:
                assert answer.content[16:24] == b"".join(side.to_bytes(4, "big") for side in sides)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("path", "model"), [("/v1/images/generate", "fashion-style"), ("/v1/text/complete", "shakespeare-gpt")]
)
def test_the_quick_start_is_answered(path, model):
    if not (COMMITTED / model / "model.safetensors").is_file():
        pytest.skip(f"weights/{model} is not in this checkout")
    ((_, body),) = [call for call in curls(section("Quick start")) if call[0] == path]
    with serving("--weights", str(COMMITTED), "--models", model) as server:
        answer = httpx.post(
            f"{server.url}{path}", content=body, headers={"Content-Type": "application/json"}, timeout=PATIENCE
        )
    assert answer.status_code == 200, answer.text
    if path == "/v1/images/generate":
        assert answer.content[16:24] == (224).to_bytes(4, "big") * 2
    else:
        assert json.loads(answer.content)["choices"][0]["text"]
