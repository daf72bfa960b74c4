"""Other people's programs, in an environment of their own, and a server for them to talk to."""

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest

from models import checkpoint
from models.config import read_config, write_config
from tests import fake_sequences as fakes
from tests.serving import PATIENCE, serving

BIN = Path(os.environ.get("CLIENTS_BIN", "build/clients/bin")).absolute()
TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }} {% endfor %}a"
# None of them is to ask the network for anything.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_API_KEY": "none",
    "TOKENIZERS_PARALLELISM": "false",
}


def pytest_collection_modifyitems(items):
    """All that is tested here is marked."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("clients")


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """`program(name, *arguments, text=, folder=)`: run one of them; what it printed."""
    if not BIN.is_dir():
        pytest.skip(f"{BIN} is not there; `make clients-test` makes it")
    home = tmp_path_factory.mktemp("home")

    def run(name, *arguments, text="", **env):
        done = subprocess.run(
            [BIN / name, *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE,
            env={"PATH": os.environ["PATH"], "HOME": str(home), **OFFLINE, **env},
            cwd=home,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Text models whose words are known: "counting" and "parrot", which chat, and "digest"."""
    folder = tmp_path_factory.mktemp("weights")
    for name, architecture in {"counting": "counting", "parrot": "echo-text", "digest": "digest"}.items():
        fakes.write(folder, name, architecture, max_length=512)
    for name in ("counting", "parrot"):
        template = checkpoint.write_template(folder / name, TEMPLATE)
        config = read_config(folder / name)
        write_config(folder / name, dataclasses.replace(config, chat_template=template))
    return folder


@pytest.fixture(scope="session")
def server(weights):
    """A real server of these models."""
    with serving("--weights", str(weights), env={"GENSERVE_MODELS_MODULE": "tests.fake_sequences"}) as server:
        yield server
