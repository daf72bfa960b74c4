"""The image and the composed services on a real engine: what they answer, what they may do, how they end."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.docker.stack import PYTHON, ROOT, answers, in_flight, post, query, run
from tests.serving import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(3600)]  # the first test waits for the build

PICTURE = {"seed": 7, "label": "Bag", "scale": 8}
COPIED = ("app", "models", "requirements", "tests/docker")
STATUS = "import pathlib; print(pathlib.Path('/proc/1/status').read_text())"
WRITE = """
import pathlib, sys
try:
    pathlib.Path(sys.argv[1]).write_text("x")
except OSError as error:
    print(error.strerror)
"""


def picture():
    answer = post("/v1/images/generate", **PICTURE)
    assert answer.status_code == 200, answer.text
    return answer.content


def test_picture(stack):
    first = picture()
    assert first.startswith(b"\x89PNG")
    assert first[16:24] == (224).to_bytes(4, "big") * 2
    assert first == picture()


def test_text(stack):
    answer = post("/v1/text/complete", prompt="HAMLET.\n", max_tokens=40, seed=7)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 40


def test_prometheus_scrapes(stack):
    """Through deploy/prometheus/prometheus.yml, as mounted by the compose file."""
    picture()
    wait_until(lambda: query('up{job="genserve"}') == 1, "Prometheus does not reach the service")
    wait_until(lambda: query("genserve_images_total") > 0, "no pictures are counted")
    assert query("genserve_model_ready") == 3


def test_both_become_healthy(stack):
    stack.wait_healthy("genserve")
    stack.wait_healthy("prometheus")


def test_user_and_privileges(stack):
    lines = stack.inside(STATUS).splitlines()
    status = {name: value.split() for name, value in (line.split(":", 1) for line in lines)}
    assert status["Uid"] == ["10001"] * 4
    assert status["Gid"] == ["10001"] * 4
    assert all(int(status[name][0], 16) == 0 for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
    assert status["NoNewPrivs"] == ["1"]
    assert stack.inside("import os; print(os.getuid(), os.getgid())") == "10001 10001"


@pytest.mark.parametrize("path", ["/x", "/opt/genserve/x", "/weights/x", "/weights/fashion-gan/config.json"])
def test_root_and_weights_are_read_only(stack, path):
    assert stack.inside(WRITE, path) == "Read-only file system"


def test_tmp_is_writable(stack):
    assert stack.inside(WRITE, "/tmp/x") == ""


def test_limits(stack):
    config = stack.inspect()["HostConfig"]
    assert (config["Memory"], config["PidsLimit"]) == (8 << 30, 1024)
    assert set(stack.processes()) == {"server", "worker"}


def test_what_the_image_holds(stack):
    """No compiler, no curl, no cache of pip, no weights, no sources that the service does not import."""
    image = json.loads(run("docker", "image", "inspect", "genserve:test"))[0]
    stack.figures["image, base included"] = f"{image['Size'] / 1e6:.0f} MB"
    assert image["Config"]["User"] == "10001:10001"
    assert image["Config"]["Entrypoint"] == ["/opt/genserve/bin/genserve"]
    assert image["Config"]["Healthcheck"]["Test"][:2] == ["CMD", PYTHON]
    found = 'for name in gcc cc curl; do command -v "$name"; done; find / -xdev -path "*/.cache/pip"; ls /weights'
    shell = ("docker", "run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "sh", "genserve:test", "-c")
    assert run(*shell, f"{{ {found}; }} 2>/dev/null; true") == ""
    assert run(*shell, "cd /opt/genserve/lib/python3.*/site-packages && ls -d app models training 2>&1 || true") == (
        "ls: cannot access 'training': No such file or directory\napp\nmodels"
    )


def layers(image):
    return json.loads(run("docker", "image", "inspect", image))[0]["RootFS"]["Layers"]


def test_a_code_change_rebuilds_the_last_layer_alone(stack, tmp_path):
    """In a copy: first as it is, which is all in the cache by now, then with one more line."""
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for pattern in ("Dockerfile", ".dockerignore", "docker-compose*.yml", "pyproject.toml", "README.md", "LICENSE"):
        for path in ROOT.glob(pattern):
            shutil.copy(path, tmp_path)
    stack.build(tmp_path, GENSERVE_IMAGE="genserve:before")
    with (tmp_path / "app/cli.py").open("a") as file:
        file.write(f"# changed at {time.time()}\n")
    seconds = stack.build(tmp_path, GENSERVE_IMAGE="genserve:after")
    stack.figures["build after a code change"] = f"{seconds:.1f} s"
    before, after = layers("genserve:before"), layers("genserve:after")
    run("docker", "image", "rm", "genserve:before", "genserve:after")
    assert before[:-1] == after[:-1]
    assert before[-1] != after[-1]


def test_sigterm_answers_what_is_in_flight(stack):
    """All are admitted, then comes `docker compose stop`: each gets its 200, and the container ends with status 0."""
    texts = [("/v1/text/complete", {"max_tokens": 200, "seed": 1000 + n}) for n in range(24)]
    pictures = [("/v1/images/generate", {"n": 64, "seed": 1000 * n}) for n in range(8)]
    with ThreadPoolExecutor(len(texts + pictures)) as pool:
        asked = [pool.submit(post, path, **body) for path, body in texts + pictures]
        wait_until(lambda: in_flight() >= len(texts), "the requests are not in flight")
        started = time.monotonic()
        stack.compose("stop", "genserve")
        seconds = time.monotonic() - started
        codes = [answer.result().status_code for answer in asked]
    state = stack.inspect()["State"]
    (said,) = [line for line in stack.compose("logs", "genserve").splitlines() if "draining" in line]
    drained = int(said.split("draining: ")[1].split()[0])
    stack.figures["SIGTERM with pictures and texts in flight"] = f"{drained} answered in {seconds:.1f} s"
    assert codes == [200] * len(asked)
    assert drained > 0, "all was over before the signal came: the test has shown nothing"
    assert (state["Status"], state["ExitCode"], state["OOMKilled"]) == ("exited", 0, False)
    assert seconds < 30
    stack.figures["start to ready, again"] = f"{stack.start():.1f} s"


@pytest.mark.parametrize(("name", "statuses"), [("server", [137]), ("worker", [])])
def test_kill_9_is_followed_by_a_restart(stack, name, statuses):
    """Of the container, or, when it hits the worker, of that alone."""
    before, since = picture(), time.time()
    stack.figures[f"kill -9 of the {name} to ready again"] = f"{stack.kill(name):.1f} s"
    assert stack.exits(since) == statuses
    assert answers("http://127.0.0.1:8000/health/live")
    assert picture() == before
