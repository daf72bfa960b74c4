"""`genserve dataset` against real servers: whole runs, runs that are killed, a server that goes and comes again."""

import contextlib
import signal
import subprocess
import sys
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from app.dataset import client, command
from app.dataset.archive import pixels
from app.dataset.folder import Folder
from app.dataset.layouts import IMAGES
from tests import fake_sequences, fakes
from tests.app.dataset import told
from tests.serving import PATIENCE, ROOT, serving
from training.data import parse_idx

# Sends itself a signal at the n-th step that the disk would see.
DYING = """
import itertools, os, shutil, signal, sys
from pathlib import Path
from app.dataset import command
from tests.app.dataset import told

signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in a shell's background begin with it ignored
steps, last, number, arguments = itertools.count(1), int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]

def dying(call):
    def step(*given, **named):
        if next(steps) == last:
            os.kill(os.getpid(), number)
        return call(*given, **named)
    return step

os.fsync, Path.replace, Path.write_bytes = map(dying, (os.fsync, Path.replace, Path.write_bytes))
shutil.rmtree = dying(shutil.rmtree)
sys.exit(command.run(told.flags(*arguments)))
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    fakes.write(folder, "echo")
    fakes.write(folder, "plain", num_classes=0, image_channels=3)
    fake_sequences.write(folder, "counting", "counting")
    return folder


@pytest.fixture(scope="module")
def server(weights):
    with serving("--weights", str(weights), env={"GENSERVE_MODELS_MODULE": "tests.fake_sequences"}) as server:
        yield server


@pytest.fixture
def run(server, capsys):
    def run(out, *arguments):
        given = ("--url", server.url, "--model", "echo", "--per-class", "70", "--out", str(out), *arguments)
        return command.run(told.flags(*given)), *capsys.readouterr()

    return run


def dying(server, out, step, number, *arguments):
    given = ("--url", server.url, "--model", "echo", "--per-class", "70", "--concurrency", "1", "--out", str(out))
    code = [sys.executable, "-c", DYING, str(step), str(int(number)), *given, *arguments]
    return subprocess.run(code, cwd=ROOT, timeout=PATIENCE, capture_output=True, text=True)


def test_any_picture_can_be_made_again(server, run, tmp_path):
    status, out, err = run(tmp_path / "set", "--truncation", "0.5", "--seed", "1000")
    assert status == 0, err
    assert out.startswith(f"{tmp_path}/set: 700 pictures of echo@")
    assert err.splitlines()[-1].startswith("genserve dataset: 700 of 700 pictures, ")
    one = told.manifest(tmp_path / "set")["classes"][3]
    assert one["label"] == "kind 3"
    seed = one["seeds"]["first"] + 65
    body = {"model": "echo", "seed": seed, **one["parameters"]}
    answer = httpx.post(f"{server.url}/v1/images/generate", json=body, timeout=PATIENCE)
    assert answer.content == (tmp_path / "set" / one["folder"] / f"{seed}.png").read_bytes()


def test_no_two_pictures_share_a_latent(run, tmp_path):
    assert run(tmp_path / "set")[0] == 0
    files = told.contents(tmp_path / "set")
    assert len(set(files.values())) == len(files) == 701


@pytest.mark.parametrize(
    ("layout", "steps"),
    [  # of the folder's first step; of parts; of the files of the set; of the manifest; of clearing up
        ("png", (1, 9, 300, 1415)),
        ("idx", (2, 30, 38, 8)),
    ],
)
def test_killed_again_and_again_it_ends_with_the_same_bytes(server, run, tmp_path, layout, steps):
    assert run(tmp_path / "unbroken", "--format", layout)[0] == 0
    for step in steps:
        died = dying(server, tmp_path / "set", step, signal.SIGKILL, "--format", layout)
        assert died.returncode == -signal.SIGKILL, f"step {step} was not reached: {died.stderr}"
    status, _, err = run(tmp_path / "set", "--format", layout)
    assert status == 0, err
    assert told.contents(tmp_path / "set") == told.contents(tmp_path / "unbroken")


def test_an_interrupt_says_how_to_go_on(server, run, tmp_path):
    found = dying(server, tmp_path / "set", 9, signal.SIGINT)
    assert found.returncode == command.INTERRUPTED
    assert found.stderr.splitlines()[-1] == "genserve dataset: interrupted; the same command goes on from here"
    assert "Traceback" not in found.stderr
    assert run(tmp_path / "set")[0] == 0


@pytest.mark.timeout(400)  # two more servers have to start
def test_a_server_that_is_killed_and_started_again_meanwhile(weights, server, run, tmp_path, monkeypatch, capsys):
    """Requests in flight are cut off; they are sent again until the new server is ready."""
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.25)
    monkeypatch.setattr(client, "LONGEST_PAUSE", 15.0)
    assert run(tmp_path / "unbroken")[0] == 0
    # Smaller batches: quicker to warm up, the same pictures.
    options = {"env": {"GENSERVE_MODELS_MODULE": "tests.fake_sequences", "GENSERVE_MAX_BATCH": "4"}}
    flags = ("--weights", str(weights), "--models", "echo")
    put, puts = Folder.put, []
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(serving(*flags, **options))

        def restart(folder, part, content):
            put(folder, part, content)
            puts.append(part)
            if len(puts) == 5:
                first.process.kill()
                first.process.wait()
                port = str(urlsplit(first.url).port)
                stack.enter_context(serving(*flags, "--port", port, **options, until="listening"))

        monkeypatch.setattr(Folder, "put", restart)
        arguments = ("--url", first.url, "--model", "echo", "--per-class", "70", "--out", str(tmp_path / "set"))
        status = command.run(told.flags(*arguments))
    assert (status, len(puts)) == (0, 20), capsys.readouterr().err
    assert told.contents(tmp_path / "set") == told.contents(tmp_path / "unbroken")


def test_colours_without_classes(run, tmp_path):
    assert run(tmp_path / "set", "--model", "plain")[0] == 0
    assert {name.split("/")[0] for name in told.contents(tmp_path / "set")} == {"all", "manifest.json"}
    assert told.manifest(tmp_path / "set")["image"] == {"height": 4, "width": 4, "channels": 3}


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (("--url", "http://127.0.0.1:1"), 1, "http://127.0.0.1:1/v1/models: can't be reached: Connection refused"),
        (("--model", "nope"), 2, "--model nope: "),
        (("--model", "counting"), 2, "--model counting: writes texts, a set is made of pictures"),
        (("--model", "plain", "--format", "idx"), 2, "--format idx: holds grey pictures; plain's have 3 channels"),
        (("--per-class", "none"), 2, "--per-class 'none': "),
    ],
)
def test_what_can_t_be_made_is_one_line_and_no_folder(run, tmp_path, arguments, status, line):
    found, out, err = run(tmp_path / "set", *arguments)
    assert (found, out, len(err.splitlines())) == (status, "", 1)
    assert err.startswith(f"genserve dataset: {line}")
    assert not (tmp_path / "set").exists()


def test_who_watches_sees_one_line(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    status, _, err = run(tmp_path / "set")
    assert (status, err.count("\n")) == (0, 1)
    assert err.startswith("\rgenserve dataset: ")
    assert " 700 of 700 pictures, " in err.rsplit("\r", 1)[1]


def test_both_layouts_hold_the_same_pictures(run, tmp_path):
    assert run(tmp_path / "set", "--format", "idx", "--per-class", "3")[0] == 0
    assert run(tmp_path / "png", "--per-class", "3")[0] == 0
    idx = parse_idx(tmp_path, (tmp_path / "set" / IMAGES).read_bytes())
    for c, one in enumerate(told.manifest(tmp_path / "png")["classes"]):
        files = [path.read_bytes() for path in sorted((tmp_path / "png" / one["folder"]).iterdir())]
        assert np.array_equal(pixels(files, (4, 4, 1))[..., 0], idx[c::10])
