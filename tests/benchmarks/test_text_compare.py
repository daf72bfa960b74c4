import json
import sys
from pathlib import Path

import pytest

from benchmarks import server, text_compare, text_servers
from benchmarks.generators import ROOT
from benchmarks.text_load import Target
from benchmarks.text_servers import TextServer

FOLDER = ROOT / "weights/shakespeare-gpt"

# Streams as many words as it was asked for, and counts them.
PROGRAM = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200); self.end_headers()
        for number in range(body["max_tokens"]):
            self.send(choices=[{"text": f" {number}"}])
        self.send(choices=[], usage={"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]})
    def send(self, **fields):
        self.wfile.write(b"data: " + json.dumps(fields).encode() + b"\\n\\n")
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[-1])), Handler).serve_forever()
"""


@pytest.fixture
def servers(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "LOGS", tmp_path)
    command = [sys.executable, "-c", PROGRAM]
    names = {"genserve bf16": "bf16", "llama.cpp BF16": "bf16"}
    found = [TextServer(name, kind, command, Target("", "model"), {"SOME": "thing"}) for name, kind in names.items()]
    monkeypatch.setattr(text_compare, "chosen", lambda _: found)
    return found


def test_a_run_is_written_and_told(tmp_path, monkeypatch, capsys, servers):
    arguments = ["text_compare", str(FOLDER), "--rounds", "2", "--clients", "1", "2", "--each", "2", "--no-raw"]
    out = tmp_path / "text.json"
    monkeypatch.setattr("sys.argv", [*arguments, "--prompt", "4", "--tokens", "3", "--out", str(out)])
    text_compare.main()
    run = json.loads(out.read_text())
    ours = run["servers"]["genserve bf16"]
    assert {"date", "commit", "machine"} < run.keys()
    assert ours["command"].startswith(f"SOME=thing {sys.executable} -c ")
    assert [len(ours[name]) for name in ("first_seconds", "resident")] == [2, 2]
    assert ours["loads"]["2"]["completions"] == [4, 4]
    assert ours["loads"]["2"]["failed"] == [0, 0]
    said = capsys.readouterr()
    assert "genserve bf16 / best peer:" in said.out
    assert "gate: the best peer in bf16, 2 clients, at least 0.9" in said.out
    assert said.err.count("genserve bf16, 1 clients") == 2


def test_what_runs_is_what_was_asked_for():
    options = text_compare.parse([str(FOLDER), "--dtypes", "int4", "--llama", "build", "--transformers", "serve", "hf"])
    assert [one.name for one in text_compare.chosen(options)] == [
        "genserve int4",
        "llama.cpp BF16",
        "llama.cpp Q8_0",
        "llama.cpp Q4_0",
        "transformers bf16",
    ]
    assert [one.name for one in text_compare.chosen(text_compare.parse([str(FOLDER)]))] == [
        "genserve bf16",
        "genserve int8",
        "genserve int4",
    ]


def test_a_quick_run_is_short():
    options = text_compare.parse([str(FOLDER), "--quick"])
    assert (options.rounds, options.each, options.clients) == (1, 1, [1, 16])


def test_the_raw_loop_runs_as_a_process_of_its_own():
    options = text_compare.parse(
        [str(FOLDER), "--dtypes", "fp32", "--rounds", "2", "--clients", "1", "2", "--each", "1"]
    )
    options.prompt, options.tokens = 8, 4
    (found,) = text_compare.raw(options).values()
    assert {rows: len(rates) for rows, rates in found.items()} == {"1": 2, "2": 2}


def test_all_servers_get_as_many_slots_as_the_most_clients():
    assert max(text_compare.parse([str(FOLDER)]).clients) == text_servers.SLOTS


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path):
    with pytest.raises(Exception, match="No such file"):
        text_compare.compare(text_compare.parse([str(tmp_path)]))
    assert not list(Path(tmp_path).iterdir())
