import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks import server, text_servers
from benchmarks.text_load import Target
from benchmarks.text_prompts import Prompt
from benchmarks.text_servers import TextServer
from tests.serving import proc

PROMPT = Prompt("to be", (1, 2))

# Not ready at first, as a server that loads; then answers any completion. Has a child that ignores SIGTERM.
PROGRAM = """
import http.server, subprocess, sys
CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", CHILD], start_new_session=True)
left = int(sys.argv[1])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        global left
        left -= 1
        print(self.path, self.rfile.read(int(self.headers["Content-Length"])).decode(), flush=True)
        self.send_response(503 if left >= 0 else 200); self.end_headers(); self.wfile.write(b"{}")
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture(autouse=True)
def logs(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "LOGS", tmp_path)
    return tmp_path


def fake(refusals, program=PROGRAM):
    return TextServer("fake one", "bf16", [sys.executable, "-c", program, str(refusals)], Target("", "model", {}))


def test_a_server_has_started_when_it_completes_and_ends_with_all_its_children(logs):
    with text_servers.started(fake(3), PROMPT) as running:
        tree = server.descendants(running.pid)
        assert len(tree) == 2
        assert running.resident > 2 * 4_000_000  # two interpreters
        assert running.first_seconds > 3 * server.PAUSE
        assert running.target.url.startswith("http://127.0.0.1:")
    time.sleep(0.1)  # init collects the orphan
    assert not any(proc(Path(f"/proc/{pid}/cmdline")) for pid in tree)
    asked = [line.split(" ", 1) for line in (logs / "fake-one.log").read_text().splitlines() if line.startswith("/v1")]
    assert [path for path, _ in asked] == ["/v1/completions"] * 4
    assert json.loads(asked[0][1])["max_tokens"] == 1


def test_a_server_that_ends_is_no_server():
    with (
        pytest.raises(server.ServerError, match="status 3"),
        text_servers.started(fake(0, "raise SystemExit(3)"), PROMPT),
    ):
        pass


def test_a_server_that_refuses_for_ever_is_told_of(monkeypatch):
    monkeypatch.setattr(server, "START_SECONDS", 3.0)
    told = r"fake-one did not start within 3 s, last answer 503: b'\{\}'"
    with pytest.raises(server.ServerError, match=told), text_servers.started(fake(1 << 30), PROMPT):
        pass


def test_each_server_is_told_the_same():
    ours = text_servers.genserve(Path("weights"), "smollm2", "int4")
    llama, hf = text_servers.llama(Path("build"), "Q4_0"), text_servers.transformers(Path("serve"), Path("hf"))
    assert (ours.name, ours.precision, ours.environment["GENSERVE_DTYPE"]) == ("genserve int4", "int4", "int4")
    assert (llama.name, llama.precision, hf.precision) == ("llama.cpp Q4_0", "int4", "bf16")
    assert ours.environment["GENSERVE_MAX_SLOTS"] == llama.command[llama.command.index("-np") + 1] == "16"
    assert "build/weights/q4_0.gguf" in llama.command
    assert not hf.target.takes_tokens
    assert "ignore_eos" not in hf.target.fields
    assert ours.target.fields["ignore_eos"]
    assert llama.target.fields["ignore_eos"]
