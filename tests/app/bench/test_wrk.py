"""What wrk is told, what it says, and a real run of it where it is installed."""

import json
import shutil
import signal
import subprocess

import pytest

from app.bench import wrk
from app.bench.errors import Unusable

FOUND = {
    "microseconds": 2_000_000, "answered": 100, "refused": 7, "other": 1, "connect": 2, "read": 3, "write": 4,
    "timeout": 5, "p50": 1500, "p90": 2500, "p99": 3500, "max": 4500,
}  # fmt: skip
installed = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")


def said(**changes):
    return f"Running 2s test\n  1 threads\n{wrk.MARK}{json.dumps({**FOUND, **changes})}\n"


def test_the_script_s_line_becomes_a_result():
    result = wrk.parse(said(), 8, 0.25)
    assert (result.answered, result.in_time, result.refused, result.failed) == (100, 100, 7, 15)
    assert (result.p50, result.p90, result.p99, result.max) == (0.0015, 0.0025, 0.0035, 0.0045)
    assert (result.mode, result.client, result.clients, result.seconds) == ("closed", "wrk", 8, 2.0)
    assert (result.throughput, result.cpu_share) == (50.0, 0.125)


def test_without_answers_there_are_no_latencies():
    result = wrk.parse(said(answered=0, refused=0, other=0), 1, 0.0)
    assert (result.p50, result.max, result.failed) == (None, None, 14)


@pytest.mark.parametrize(("output", "reason"), [("", "nothing"), ("\nunable to connect to x\n", "unable to connect")])
def test_without_that_line_wrk_s_own_words_are_the_error(output, reason):
    with pytest.raises(Unusable, match=reason):
        wrk.parse(output, 1, 0.0)


def test_nothing_in_body_or_headers_means_anything_to_lua():
    script = wrk.script(b'"\\\n\x00]]', {'A"': "b\\"})
    assert r'wrk.body = "\034\092\010\000\093\093"' in script
    assert r'wrk.headers["\065\034"] = "\098\092"' in script


def test_without_wrk(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert wrk.version() is None
    with pytest.raises(Unusable, match="not on the PATH"):
        wrk.closed_loop("http://127.0.0.1:1/", b"{}", 1, 1)


def test_a_program_that_does_not_end_is_ended(tmp_path, monkeypatch):
    begun = []

    class Spy(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            begun.append(self)

    monkeypatch.setattr(subprocess, "Popen", Spy)
    with pytest.raises(Unusable, match="did not end"):
        wrk._run(["sleep", "1000"], tmp_path / "said", 0.05)
    assert [process.returncode for process in begun] == [-signal.SIGKILL]


@installed
def test_wrk_sends_what_it_is_told_and_counts_each_status(service):
    service.statuses = [429, 500, 302]
    body = b'{"a": "\\"\\u00e9"}'
    result = wrk.closed_loop(f"{service.url}/v1/images/generate", body, 2, 0.1, {"Content-Type": "application/json"})
    assert (result.refused, result.failed) == (1, 2)
    assert result.answered > 0
    assert 0 < result.p50 <= result.p99 <= result.max
    assert result.seconds >= 1
    assert result.client_cpu_seconds > 0
    assert set(service.bodies) == {body}


@installed
def test_wrk_that_can_t_connect_says_so():
    with pytest.raises(Unusable, match=r"unable to connect.*127\.0\.0\.1:1"):
        wrk.closed_loop("http://127.0.0.1:1/", b"{}", 1, 1)
    assert wrk.version()
