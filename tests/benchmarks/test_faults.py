"""The fault tests say what is so: tried on a server that does everything wrong, and on ours."""

import asyncio
import json
import sys
import time
from pathlib import Path

import pytest
import torch

from app import latents
from benchmarks import fault_client, fault_report, fault_servers, faults, server
from benchmarks.fault_client import CLOSED, HANGING, OK, REFUSED, WAITING, Door, Load, Outcome, ask, leave
from benchmarks.peers import faults as toy

# Notes each request as the toy network would, sleeps for the slow one, fails the bad one; has a child in a session of
# its own that no polite signal ends. SIGTERM ends it at once.
PROGRAM = """
import http.server, json, os, subprocess, sys, time
CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", CHILD], start_new_session=True)
marks = json.loads(sys.argv[2])
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_POST(self):
        seed = str(json.loads(self.rfile.read(int(self.headers["Content-Length"]))).get("seed"))
        with open(os.environ["FAULT_LOG"], "a") as notes:
            notes.write(f"{os.getpid()} {marks.get(seed, float(1).hex())}\\n")
        time.sleep(1.0 if seed == sys.argv[3] else 0.0)
        self.send_response(500 if seed == sys.argv[4] else 200)
        self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"ok")
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
KNOWN = [toy.POISON, toy.SLOW, *range(1000, 1010), *(first + j for first in (2000, 3000, 4000) for j in range(6))]


@pytest.fixture
def bad_server(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "LOGS", tmp_path)
    monkeypatch.setattr(fault_servers, "FOLDER", tmp_path)
    monkeypatch.setattr(faults, "CALM_SECONDS", 0.2)

    def launch(name, workers, limit, log):
        port, marks = server.free_port(), json.dumps({str(seed): toy.mark(seed).hex() for seed in KNOWN})
        command = [sys.executable, "-c", PROGRAM, str(port), marks, str(toy.SLOW), str(toy.POISON)]
        return server.Launch(name, command, port, "/generate", {toy.LOG: str(log)})

    monkeypatch.setattr(fault_servers, "_launch", launch)


def gone(log):
    deadline = time.monotonic() + 30
    while fault_servers.family(log) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not fault_servers.family(log)


def test_a_server_that_cares_for_nobody(bad_server):
    with fault_servers.site("bad", 1) as here:
        found = asyncio.run(faults.batch(here))
        assert found == {"sent": 7, "failed": [1, 1, 1], "rows": 1, "changed": 0}
        assert asyncio.run(faults.departed(here)) == {"left": 6, "computed": [6, 6, 6]}
        assert len(here.family()) == 2
        found = asyncio.run(faults.terminated(here))
        assert found["exit_status"] == -15
        assert found["clients"].get(CLOSED, 0) >= 1, "the slow one at least"
        assert (found["left"], found["still_serving"]) == (1, False)
    assert gone(here.log), "the child that ignores SIGTERM and has lost its parent"


def test_a_server_that_dies_with_its_worker(bad_server):
    with fault_servers.site("bad", 1) as here:
        found = asyncio.run(faults.killed(here))
    assert (found["again_seconds"], found["exit_status"]) == (None, -9)
    assert OK not in found["meanwhile"]
    assert gone(here.log)


def test_a_server_that_hangs(bad_server, monkeypatch):
    monkeypatch.setattr(fault_client, "HANG_SECONDS", 1.0)
    with fault_servers.site("bad", 1) as here:
        found = asyncio.run(faults.hung(here))
        assert (found["again_seconds"], found["exit_status"]) == (None, None)
        assert set(found["meanwhile"]) == {HANGING, WAITING}
        assert found["longest_seconds"] <= 60
    assert gone(here.log), "a stopped process hears SIGKILL alone"


async def serve(answer):
    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    return listening, Door(listening.sockets[0].getsockname()[1], "/generate")


@pytest.mark.parametrize(
    ("said", "what", "content"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd", OK, b"abcd"),
        (b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\nabcd", OK, b"abcd"),
        (b"HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\nabcd", "503", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcd", CLOSED, b""),
        (b"HTTP/1.1 200", CLOSED, b""),
        (b"", CLOSED, b""),
    ],
)
async def test_what_a_client_sees(said, what, content):
    async def answer(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"POST /generate HTTP/1.1\r\n")
        assert json.loads(await reader.readexactly(11)) == {"seed": 7}
        writer.write(said)
        writer.close()

    listening, door = await serve(answer)
    async with listening:
        outcome = await ask(Door(door.port, door.path), 7)
    assert (outcome.what, outcome.content) == (what, content)
    assert outcome.ended >= outcome.sent


async def test_a_client_that_hangs_and_one_that_finds_nobody():
    async def never(reader, writer):
        await reader.read()  # until the client has had enough
        writer.close()

    listening, door = await serve(never)
    async with listening:
        assert (await ask(door, 7, limit=0.2)).what == HANGING
    assert (await ask(Door(server.free_port(), "/"), 7)).what == REFUSED


async def test_a_client_that_leaves():
    seen = asyncio.get_running_loop().create_future()

    async def answer(reader, writer):
        seen.set_result(await reader.read())
        writer.close()

    listening, door = await serve(answer)
    async with listening:
        await leave(door, 7, 0.05)
        assert (await asyncio.wait_for(seen, 60)).endswith(b'{"seed": 7}')


def test_a_load_is_summed_up_around_the_fault():
    outcomes = [
        Outcome(OK, 0, 1),
        Outcome(OK, 1, 4.5),
        Outcome("500", 9, 13),
        Outcome(CLOSED, 9.5, 10.5),
        Outcome(OK, 15, 16),
    ]
    probes = [Outcome(OK, 9.9, 11), Outcome(REFUSED, 10.1, 10.1), Outcome(OK, 12, 14), Outcome(OK, 11.5, 14.5)]
    assert faults.summary(Load(Door(0, ""), (), outcomes, probes), 10.0) == {
        "again_seconds": 4.0,
        "in_flight": {"500": 1, CLOSED: 1, OK: 1},
        "longest_seconds": 3.0,
        "meanwhile": {OK: 2, REFUSED: 1},
    }
    assert faults.summary(Load(Door(0, ""), ()), 10.0)["again_seconds"] is None


def test_the_table_says_it():
    outage = {"in_flight": {OK: 7, "500": 1}, "longest_seconds": 2.04, "meanwhile": {HANGING: 2}, "exit_status": None}
    good = {
        "version": "0.1",
        "batch": {"sent": 7, "failed": [1, 1, 1], "rows": 7, "changed": 0},
        "departed": {"left": 6, "computed": [0, 0, 1]},
        "killed": {**outage, "again_seconds": 2.5},
        "hung": {**outage, "again_seconds": None},
        "terminated": {"seconds": 1.2, "exit_status": 0, "clients": {OK: 8}, "left": 0, "still_serving": False},
    }
    bad = {
        "version": "9",
        "batch": {"error": "ServerError: no"},
        "killed": {**outage, "again_seconds": None, "exit_status": 1},
        "terminated": {"seconds": 15.0, "exit_status": None, "clients": {CLOSED: 8}, "left": 4, "still_serving": True},
    }
    lines = fault_report.table({"mosec": bad, "genserve": good}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["", "genserve 0.1", "mosec 9"]
    assert [row[1] for row in cells[2:]] == [
        "1 of 7 (7 in its batch)",
        "0, 0, 1 of 6",
        "2.5 s",
        "7 answered, 1 got 500; within 2.0 s",
        "2 still hanging after 15 s",
        "not within 15 s",
        "7 answered, 1 got 500; within 2.0 s",
        "2 still hanging after 15 s",
        "8 answered",
        "status 0 after 1.2 s",
        "0",
    ]
    assert [row[2] for row in cells[2:5]] == ["ServerError: no", "-", "never: the server ended, status 1"]
    assert [row[2] for row in cells[-3:]] == ["8 cut off", "still running after 15 s", "4, and they serve"]


def test_results_of_several_runs_are_kept_side_by_side(tmp_path):
    path = tmp_path / "results/faults.json"
    faults.remember(path, 1, {"mosec": {"version": "9", "batch": {"sent": 7}}})
    faults.remember(path, 2, {"mosec": {"version": "9"}})
    run = faults.remember(path, 1, {"mosec": {"version": "9", "hung": {}}, "genserve": {"version": "0.1"}})
    assert json.loads(path.read_text()) == run
    assert set(run["workers"]) == {"1", "2"}
    assert set(run["workers"]["1"]) == {"mosec", "genserve"}
    assert {"batch", "hung", "commit", "date"} <= set(run["workers"]["1"]["mosec"])


def test_the_toy_notes_what_it_computes(tmp_path, monkeypatch):
    monkeypatch.setenv(toy.LOG, str(tmp_path / "log"))
    monkeypatch.setattr(toy, "SLOW_SECONDS", 0.0)
    model = toy.Faulty()
    drawn = {seed: torch.from_numpy(latents.from_seed(seed, toy.SHAPE, 0)[0]) for seed in (5, toy.SLOW, toy.POISON)}
    labels = torch.zeros(2, dtype=torch.int64)
    assert model.decode(torch.stack([drawn[5], drawn[toy.SLOW]]), labels).shape == (2, 1, toy.SIDE, toy.SIDE)
    with pytest.raises(ValueError, match="poisoned"):
        model.decode(torch.stack([drawn[toy.POISON], torch.zeros(4)]), labels)
    here = fault_servers.Site(Door(0, ""), None, tmp_path / "log")
    assert here.computed([5, 6, toy.SLOW]) == 2
    assert (here.mates(5), here.mates(toy.POISON), here.mates(6)) == (2, 1, 0)


def test_ours_fails_the_bad_request_alone(tmp_path, monkeypatch):
    """The whole way: the program starts `genserve serve` with the toy network, and finds what we promise."""
    monkeypatch.setattr(server, "LOGS", tmp_path)
    monkeypatch.setattr(fault_servers, "FOLDER", tmp_path)
    found = faults.examine("genserve", ["batch"], 1)["batch"]
    assert found["failed"] == [1, 1, 1], found
    assert found["rows"] > 1, "they shared a batch"
    assert found["changed"] == 0
    assert not any(Path(tmp_path).glob("genserve-*.log"))
