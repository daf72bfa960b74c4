"""What examples/ shows is run, as it stands, against the weights of the repository."""

import io
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from PIL import Image

from tests.conftest import COMMITTED
from tests.serving import ROOT, serving

MODELS = ("fashion-gan", "fashion-vae", "shakespeare-gpt", "emoji-vq", "emoji-dalle", "voice-wavenet")
MISSING = [name for name in MODELS if not (COMMITTED / name / "model.safetensors").is_file()]

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"weights/{', weights/'.join(MISSING)} is not in this checkout"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def server():
    with serving("--weights", str(COMMITTED), "--models", ",".join(MODELS)) as server:
        yield server


@pytest.fixture
def run(server, tmp_path):
    def run(*command):
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "GENSERVE_URL": server.url},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    return run


def size(path):
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def test_every_example_is_run_here():
    assert {path.name for path in (ROOT / "examples").iterdir() if path.is_file()} == {
        "curl.sh", "gallery.py", "httpx_client.py", "openai_client.py",
    }  # fmt: skip


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl(run, tmp_path):
    said = run("sh", str(ROOT / "examples/curl.sh"))
    assert size(tmp_path / "bags.png") == (224, 224)
    with zipfile.ZipFile(tmp_path / "walk.zip") as archive:
        assert len(archive.namelist()) == 8
        assert size(io.BytesIO(archive.read(archive.namelist()[0]))) == (28, 28)
    with Image.open(tmp_path / "walk.webp") as walk:
        assert (walk.n_frames, walk.size) == (14, (112, 112))
    assert size(tmp_path / "dog.png") == (128, 128)
    assert (tmp_path / "morning.wav").read_bytes()[:4] == b"RIFF"
    assert '"finish_reason":' in said
    assert said.rstrip().endswith("data: [DONE]")


def test_httpx(run, tmp_path):
    said = run(sys.executable, str(ROOT / "examples/httpx_client.py"))
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [f"sneaker-{seed}.png" for seed in (1, 2, 3)]
    first, refused, *text = said.splitlines()
    assert first.startswith("made by fashion-gan@")
    assert refused.startswith("400 ")
    assert "label" in refused
    assert "".join(text).strip()


def test_openai(run, tmp_path):
    said = run(sys.executable, str(ROOT / "examples/openai_client.py"))
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["boot-0.png", "boot-1.png", "cat.png"]
    assert size(tmp_path / "cat.png") == (32, 32)
    assert (tmp_path / "morning.wav").read_bytes()[:4] == b"RIFF"
    names, _, texts = said.partition("\n")
    assert names == str(list(MODELS))
    whole, streamed = texts[: len(texts) // 2], texts[len(texts) // 2 :]
    assert whole.strip()
    assert whole == streamed, "streamed or not, a seed says the same"


def test_gallery(run, tmp_path):
    names = run(sys.executable, str(ROOT / "examples/gallery.py")).split()
    assert names == ["fashion-gan", "fashion-vae"]
    assert size(tmp_path / "pictures.png") == (16 * 60 - 4, 2 * 60 - 4), "seeds 0 to 15, a row a model"
