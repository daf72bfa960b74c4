"""`genserve bench` as users run it, against a real server; what is measured is not looked at, only that it is."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from app import cli
from app.bench import command
from tests import fake_sequences, fakes
from tests.serving import PATIENCE, ROOT, serving

QUICK = ("--seconds", "0.5", "--clients", "2", "--max-tokens", "8")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    weights = tmp_path_factory.mktemp("weights")
    fakes.write(weights, "echo")
    fake_sequences.write(weights, "counting", "counting")
    with serving("--weights", str(weights), env={"GENSERVE_MODELS_MODULE": "tests.fake_sequences"}) as server:
        yield server


def start(*arguments, **env):
    return subprocess.Popen(
        [sys.executable, "-m", "app.cli", "bench", *arguments],
        cwd=ROOT, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background inherits "ignored"
    )  # fmt: skip


def bench(*arguments, **env):
    with start(*arguments, **env) as process:
        out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


@pytest.fixture
def run(service, monkeypatch, capsys):
    """In this process, where the service can be told what to answer."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["genserve", "bench", "--url", service.url, *QUICK, *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    "client",
    ["python", pytest.param("wrk", marks=pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed"))],
)
def test_the_whole_of_it(server, client, tmp_path):
    file = tmp_path / "out.json"
    status, out, err = bench("--url", server.url, *QUICK, "--rates", "0.9", "--client", client, "--json", str(file))
    assert status == 0, err
    head, counting, echo, _, names, _, *rows = out.splitlines()
    assert head.startswith(f"{server.url}, 20")
    assert ("wrk " in head, "aiohttp " in head) == (client == "wrk", True)
    assert counting.startswith("counting@")
    assert echo.startswith("echo@")
    assert " on cpu; " in echo
    assert names.split()[:2] == ["model", "load"]
    assert [row[:20].split()[0] for row in rows[:3]] == ["counting", "echo", "echo"]
    assert "counting, 2 streams: first text after" in out
    found = json.loads(file.read_text())
    assert {one["client"] for one in found["results"]} == {"aiohttp", "wrk" if client == "wrk" else "aiohttp"}
    assert all(one["answered"] > 0 == one["failed"] for one in found["results"])


def test_one_model_and_no_open_loop(server):
    status, out, err = bench("--url", f"{server.url}/", *QUICK, "--model", "echo", "--rates", "", "--client", "python")
    assert (status, len(out.splitlines())) == (0, 6), err


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (("--url", "http://127.0.0.1:1"), 1, "http://127.0.0.1:1/v1/models: can't be reached: Connection refused"),
        (("--model", "nope"), 2, "--model nope: "),
        (("--max-tokens", "1000000"), 2, "counting: the service refuses the request: max_tokens: 1000000 "),
        (("--clients", "none"), 2, "--clients 'none': "),
    ],
)
def test_what_can_t_be_measured_is_one_line(server, arguments, status, line, run):
    found, out, err = run("--url", server.url, *arguments)
    assert (found, out, len(err.splitlines())) == (status, "", 1)
    assert err.startswith(f"genserve bench: {line}")


def test_an_interrupt_shows_what_was_measured(server, tmp_path):
    file = tmp_path / "out.json"
    many = ",".join(["1"] * 1000)
    flags = ("--model", "echo", "--client", "python", "--seconds", "0.2", "--clients", many, "--json", str(file))
    with start("--url", server.url, *flags) as process:
        loops = 0
        while loops < 3:
            loops += "closed loop" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == command.INTERRUPTED
    assert "interrupted; what was measured so far:" in err
    assert "Traceback" not in err
    assert len(json.loads(file.read_text())["results"]) >= 2
    assert "echo" in out


def test_a_failed_request_is_status_1(service, run):
    service.statuses = [200, 429, 500]
    status, out, err = run("--model", "gan", "--client", "python", "--rates", "")
    assert status == 0, "the warm-up does not count"
    service.statuses = [200, 200, *[500] * 100_000]  # one for a request of the first run that was still on its way
    status, out, err = run("--model", "gan", "--client", "python")
    assert status == 1
    assert "gan, 2 clients: nothing was answered" in out
    assert err.splitlines()[-1].startswith("genserve bench: gan, 2 clients: none of ")
    assert "open loop" not in err


def test_nothing_answered_offers_no_open_loop(service, run):
    service.hold, service.free = 30, 1
    status, out, err = run("--model", "gan", "--client", "python")
    assert status == 1
    assert "gan, 2 clients: nothing was answered" in out
    assert "open loop" not in err


def test_a_file_that_can_t_be_written_is_status_1(service, run, tmp_path, monkeypatch):
    file = tmp_path / "out.json"

    def write_text(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(command.report, "document", lambda *_, **__: {})
    monkeypatch.setattr(type(file), "write_text", write_text)
    status, out, err = run("--model", "gan", "--client", "python", "--rates", "", "--json", str(file))
    assert status == 1
    assert err.endswith(f"--json {file}: Permission denied\n")
    assert "gan" in out


def test_wrk_asked_for_and_missing(run, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    status, _, err = run("--client", "wrk")
    assert (status, err) == (
        2, "genserve bench: --client wrk: there is no program wrk on the PATH (Debian: apt install wrk)\n",
    )  # fmt: skip


def test_an_interrupt_before_anything_is_measured(run, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "survey", interrupt)
    assert run() == (command.INTERRUPTED, "", "")


def test_more_clients_than_open_files(run, monkeypatch):
    monkeypatch.setattr(command.load, "open_files", lambda wanted: 1)
    status, _, err = run()
    assert (status, err) == (2, "genserve bench: --clients 2: the limit on open files (ulimit -Hn) allows 1\n")


def test_without_aiohttp(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    for name in [name for name in sys.modules if name.startswith("app.bench.") and "options" not in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(sys.modules["app.bench"], "command")
    status, out, err = run()
    assert (status, out, err) == (2, "", "genserve bench needs aiohttp, of the extra `bench`\n")
