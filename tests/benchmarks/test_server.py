import io
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import server
from benchmarks.peers.contract import Config
from tests.serving import proc

# Answers every POST with the same picture; has a child that ignores SIGTERM, as a stubborn worker would.
PROGRAM = """
import http.server, subprocess, sys
CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", CHILD], start_new_session=True)
picture = open(sys.argv[2], "rb").read()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200); self.end_headers(); self.wfile.write(picture)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def launch(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "LOGS", tmp_path)
    content = io.BytesIO()
    Image.fromarray(np.full((4, 4), 100, np.uint8)).save(content, "png")
    (tmp_path / "picture.png").write_bytes(content.getvalue())
    port = server.free_port()
    command = [sys.executable, "-c", PROGRAM, str(port), str(tmp_path / "picture.png")]
    return server.Launch("fake", command, port, "/generate")


def test_the_whole_tree_is_counted_and_ended(launch):
    with server.running(launch) as process:
        tree = server.descendants(process.pid)
        assert len(tree) == 2
        assert server.cpu_seconds(process.pid) > 0
    time.sleep(0.1)  # init collects the orphan
    assert not any(proc(Path(f"/proc/{pid}/cmdline")) for pid in tree)


CASES = [("float32", 1, True), ("float32", 2, False), ("bfloat16", 6, True)]


@pytest.mark.parametrize(("dtype", "away", "same"), CASES)
def test_pictures_are_compared(launch, dtype, away, same):
    with server.running(launch):
        reference = np.full((4, 4), 100 + away, np.uint8)
        if same:
            server.check(launch, dtype, False, reference)
        else:
            with pytest.raises(server.ServerError, match="2 grey levels away"):
                server.check(launch, dtype, False, reference)


def test_a_server_that_ends_is_no_server(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "LOGS", tmp_path)
    launch = server.Launch("fake", [sys.executable, "-c", "raise SystemExit(3)"], server.free_port(), "/generate")
    with pytest.raises(server.ServerError, match="status 3"), server.running(launch):
        pass


def test_a_configuration_survives_the_environment(monkeypatch):
    config = Config(Path("weights/x"), 1234, "bfloat16", 2, 1, 5, 16, "inline")
    for name, value in config.environment().items():
        monkeypatch.setenv(name, value)
    assert Config.from_environment() == config


def test_the_load_leaves_the_seed_to_the_server():
    assert server.request_body(conditional=False) == b"{}"
    assert server.request_body(conditional=True) == b'{"label":7}'
    assert server.request_body(conditional=True, seed=7) == b'{"seed":7,"label":7}'
