"""The promises that only real processes can keep: signals, sockets, exit codes, /proc."""

import asyncio
import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import time
from pathlib import Path

import httpx
import openai
import pytest
import safetensors.torch
import torch

from tests import fakes
from tests.serving import PATIENCE, alive, metric, serving, wait_until

URL = "/v1/images/generate"
POISONED = {"latents": [fakes.GATE, 0, 0, 0]}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One server for all tests that leave it as they find it."""
    folder = tmp_path_factory.mktemp("shared")
    fakes.write(folder / "weights", "echo", gate=str(folder / "gate"))
    with serving("--weights", str(folder / "weights")) as server:
        server.gate = folder / "gate"
        yield server


class Clients:
    """Requests on sockets of their own, sent together, each read only when asked for."""

    def __init__(self, url):
        self.address = url.removeprefix("http://")
        self.open = []

    def post(self, body):
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE)
        connection.request("POST", URL, json.dumps(body), {"Content-Type": "application/json"})
        self.open.append(connection)
        return connection

    def close(self):
        for connection in self.open:
            connection.close()

    @staticmethod
    def answer(connection):
        with contextlib.closing(connection):
            response = connection.getresponse()
            return response.status, response.read()

    def answers(self):
        return [self.answer(connection) for connection in self.open]


@pytest.fixture
def connect():
    """`connect(server)`: requests on sockets that are closed with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda server: stack.enter_context(contextlib.closing(Clients(server.url)))


def hold(server, gate, clients):
    """Keep the worker busy until the gate is gone; gives the connection that does it."""
    gate.touch()
    holder = clients.post(POISONED)
    wait_until(fakes.held(gate).exists, "the worker does not reach the gate")
    return holder


def ready_status(server):
    return httpx.get(f"{server.url}/health/ready", timeout=PATIENCE).status_code


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_worker_is_a_process_and_torch_lives_there_alone(shared):
    (worker,) = shared.workers
    assert b"app.worker" in Path(f"/proc/{worker}/cmdline").read_bytes()
    assert "libtorch" in Path(f"/proc/{worker}/maps").read_text()
    assert "torch" not in Path(f"/proc/{shared.process.pid}/maps").read_text()


def test_it_listens_on_the_loopback_alone(shared):
    port = int(shared.url.rpartition(":")[2])
    inodes = {str(f.readlink()) for f in Path(f"/proc/{shared.process.pid}/fd").iterdir() if f.is_symlink()}
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = [fields[1] for fields in listening if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes]
    assert ours == [f"0100007F:{port:04X}"]


def test_an_idle_server_uses_no_cpu(shared):
    """CPU time, not wall time: a busy machine does not matter."""
    pids = [shared.process.pid, *shared.workers]
    wait_until(lambda: shared.metric("genserve_queue_depth") == 0, "it is not idle")
    before, start = sum(map(cpu_seconds, pids)), time.monotonic()
    time.sleep(5)
    used = (sum(map(cpu_seconds, pids)) - before) / (time.monotonic() - start)
    assert used < 0.01


def test_the_start_shows_a_table(shared):
    (line,) = [line for line in shared.lines if line.split()[:2] == ["echo", "echo"]]
    assert "4x4x1" in line
    assert "ready on cpu; torch" in shared.log


def test_a_client_that_leaves_frees_its_rows(shared, connect):
    """They are gone from the queue while the device is busy, and are never computed."""
    clients = connect(shared)
    images, cancelled = shared.metric("genserve_images_total"), shared.metric("genserve_cancelled_total")
    holder = hold(shared, shared.gate, clients)
    for _ in range(3):
        clients.post({"n": 64})
    wait_until(lambda: shared.metric("genserve_queue_depth") == 193, "three requests wait behind one")
    for connection in clients.open[1:]:
        connection.close()
    wait_until(lambda: shared.metric("genserve_queue_depth") == 1, "their rows are not freed")
    assert shared.metric("genserve_cancelled_total") == cancelled + 3
    shared.gate.unlink()
    assert clients.answer(holder)[0] == 200
    assert httpx.post(f"{shared.url}{URL}", json={}, timeout=PATIENCE).status_code == 200
    assert shared.metric("genserve_images_total") == images + 2
    assert shared.metric("genserve_requests_total", code="499") >= 3


def test_a_client_that_leaves_in_the_middle_of_its_body(shared):
    before = shared.metric("genserve_requests_total", code="499")
    host, port = shared.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as sock:
        head = f"POST {URL} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        sock.sendall(head.encode() + b'{"n":')
    wait_until(lambda: shared.metric("genserve_requests_total", code="499") > before, "nobody noticed")
    assert "Traceback" not in shared.log


def test_oversized_bodies_over_a_real_socket(shared):
    url = f"{shared.url}{URL}"
    headers = {"Content-Type": "application/json"}
    good = httpx.post(url, json={"seed": 1}, timeout=PATIENCE).content
    for content in (b" " * (2 << 20), (b" " * 65536 for _ in range(32))):
        with contextlib.suppress(httpx.WriteError, httpx.ReadError):  # the answer may come before all is sent
            assert httpx.post(url, content=content, headers=headers, timeout=PATIENCE).status_code == 413
    assert httpx.post(url, json={"seed": 1}, timeout=PATIENCE).content == good


def test_nonsense_on_the_socket_harms_nobody(shared):
    host, port = shared.url.removeprefix("http://").split(":")
    for nonsense in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"):
        with socket.create_connection((host, int(port)), PATIENCE) as sock:
            sock.sendall(nonsense)
    assert ready_status(shared) == 200


def test_the_stock_openai_client(shared):
    with openai.OpenAI(base_url=f"{shared.url}/v1", api_key="none") as ai:
        answer = ai.images.generate(prompt="kind 2", n=2, size="8x8", extra_body={"seed": 5})
        assert len(answer.data) == 2
        assert [model.id for model in ai.models.list()] == ["echo"]
        with pytest.raises(openai.BadRequestError) as caught:
            ai.images.generate(prompt="a cat")
        assert caught.value.param == "prompt"


async def test_64_clients_at_once(shared):
    bodies = [{"seed": i, "n": 1 + i % 16} for i in range(64)]
    async with httpx.AsyncClient(base_url=shared.url, timeout=PATIENCE, limits=httpx.Limits(max_connections=64)) as c:
        together = await asyncio.gather(*(c.post(URL, json=body) for body in bodies))
        assert {response.status_code for response in together} == {200}
        for body, response in zip(bodies[::8], together[::8], strict=True):
            assert (await c.post(URL, json=body)).content == response.content


def test_documentation_works_without_the_internet(shared):
    page = httpx.get(f"{shared.url}/docs", timeout=PATIENCE).text
    assert "https://" not in page.replace("https://fastapi.tiangolo.com/img/favicon.png", "")


def test_sigterm_answers_what_was_admitted(serve, weights, gate, connect):
    """64 requests in flight: all are answered, new ones are refused, readiness says so, nothing is left behind."""
    server = serve("--weights", str(weights))
    workers = server.workers
    clients = connect(server)
    hold(server, gate, clients)
    for seed in range(63):
        clients.post({"seed": seed, "n": 1 + seed % 8})
    rows = 1 + sum(1 + seed % 8 for seed in range(63))
    wait_until(lambda: server.metric("genserve_queue_depth") == rows, "64 requests are in flight")
    server.terminate()
    wait_until(lambda: ready_status(server) == 503, "readiness does not turn")
    assert httpx.get(f"{server.url}/health/ready", timeout=PATIENCE).json()["status"] == "draining"
    refused = httpx.post(f"{server.url}{URL}", json={}, timeout=PATIENCE)
    assert (refused.status_code, refused.json()["code"]) == (503, "draining")
    gate.unlink()
    answers = clients.answers()
    assert [status for status, _ in answers] == [200] * 64
    assert all(body.startswith(b"\x89PNG") and body.endswith(b"IEND\xaeB`\x82") for _, body in answers)
    assert server.wait_exit() == 0
    assert not any(map(alive, workers))


def test_sigterm_waits_for_answers_that_are_still_being_encoded(serve, weights, connect):
    """Computing is over long before 16 archives of large pictures are written."""
    server = serve("--weights", str(weights), env={"GENSERVE_MAX_PIXELS": str(1 << 30), "GENSERVE_DRAIN_SECONDS": "60"})
    clients = connect(server)
    for seed in range(16):
        clients.post({"seed": seed, "n": 64, "scale": 64, "format": "webp"})
    wait_until(lambda: server.metric("genserve_images_total") == 16 * 64, "all is computed")
    server.terminate()
    assert [status for status, _ in clients.answers()] == [200] * 16
    assert server.wait_exit() == 0


def test_what_is_not_answered_in_time_is_told_so(serve, weights, gate, connect):
    server = serve("--weights", str(weights), env={"GENSERVE_DRAIN_SECONDS": "0.2"})
    clients = connect(server)
    hold(server, gate, clients)
    server.terminate()
    status, body = clients.answers()[0]
    assert status == 503, body
    assert json.loads(body)["code"] == "draining"
    gate.unlink()
    assert server.wait_exit() == 0


def test_a_second_sigterm_stops_at_once(serve, weights, gate, connect):
    server = serve("--weights", str(weights), env={"GENSERVE_DRAIN_SECONDS": "3600"})
    workers = server.workers
    hold(server, gate, connect(server))
    server.terminate()
    wait_until(lambda: ready_status(server) == 503, "the first one drains")
    server.terminate()
    server.wait_exit()
    gate.unlink()
    wait_until(lambda: not any(map(alive, workers)), "a worker is left behind")


def test_a_killed_worker_is_replaced_and_its_requests_are_answered(serve, weights, gate, connect):
    server = serve("--weights", str(weights))
    (worker,) = server.workers
    clients = connect(server)
    hold(server, gate, clients)
    for _ in range(8):
        clients.post({"n": 8})
    wait_until(lambda: server.metric("genserve_queue_depth") == 65, "requests are in flight")
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: ready_status(server) == 503, "readiness does not tell")
    gate.unlink()
    assert [status for status, _ in clients.answers()] == [200] * 9
    server.wait_ready()
    assert server.workers != [worker]
    assert f"(pid {worker}) was ended by signal 9" in server.log
    assert server.metric("genserve_worker_restarts_total") == 1


def test_a_request_that_takes_the_worker_down(serve, weights):
    """A crash in native code, as seen from outside: refused once it is sure, and at once when it comes again."""
    server = serve("--weights", str(weights))
    for restarts in (2, 2):
        server.wait_ready()
        answer = httpx.post(f"{server.url}{URL}", json={"latents": [fakes.EXIT, 0, 0, 0]}, timeout=PATIENCE)
        assert (answer.status_code, answer.json()["code"]) == (500, "kills_worker")
        assert server.metric("genserve_worker_restarts_total") == restarts
    server.wait_ready()
    assert httpx.post(f"{server.url}{URL}", json={"seed": 1}, timeout=PATIENCE).status_code == 200


def answers_ready(server):
    """Whether readiness is 200; a server that ends meanwhile is not ready."""
    try:
        return ready_status(server) == 200
    except httpx.HTTPError:
        return False


def test_a_worker_that_is_killed_again_and_again_ends_the_server(serve, weights):
    server = serve("--weights", str(weights), env={"GENSERVE_MAX_RESTARTS": "1"})
    for _ in range(2):
        server.wait_ready()
        (worker,) = server.workers
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not answers_ready(server), "the dead worker is not noticed")
    assert server.wait_exit() == 3
    assert "2 crashes in a row" in server.log


def test_killing_the_server_leaves_no_worker_behind(serve, weights, gate, connect):
    server = serve("--weights", str(weights), "--device", "cpu,cpu")
    workers = server.workers
    assert len(workers) == 2, "one worker a device"
    for _ in range(4):
        assert httpx.post(f"{server.url}{URL}", json={"n": 4}, timeout=PATIENCE).status_code == 200
    hold(server, gate, connect(server))  # one of them busy, the other waiting for work
    server.process.kill()
    server.process.wait(PATIENCE)
    gate.unlink()
    wait_until(lambda: not any(map(alive, workers)), "a worker is left behind")


def test_a_full_queue_over_a_real_socket(serve, weights, gate, connect):
    server = serve("--weights", str(weights), env={"GENSERVE_MAX_QUEUE": "64"})
    clients = connect(server)
    hold(server, gate, clients)
    clients.post({"n": 55})  # the last eighth is kept for clients that have nothing in flight
    wait_until(lambda: server.metric("genserve_queue_depth") == 56, "the queue is full")
    refused = httpx.post(f"{server.url}{URL}", json={}, timeout=PATIENCE)
    assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert int(refused.headers["retry-after-ms"]) >= 1
    assert metric(httpx.get(f"{server.url}/metrics").text, "genserve_rejected_total", reason="queue_full") == 1
    gate.unlink()
    assert [status for status, _ in clients.answers()] == [200, 200]


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _non_finite(path):
    """With the right digest: the folder is consistent, its numbers are not."""
    data = safetensors.torch.save({"weight": torch.full((fakes.LATENT_DIM,), float("nan"), dtype=torch.float16)})
    path.write_bytes(data)
    config = json.loads((path.parent / "config.json").read_text())
    config["weights"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    (path.parent / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (lambda path: path.unlink(), "missing"),
        (_truncate, "truncated"),
        (_flip, "tampered with"),
        (_non_finite, "tensor weight holds non-finite values"),
    ],
    ids=["missing", "truncated", "tampered", "non-finite"],
)
def test_broken_weights_stop_the_start_with_one_clear_line(serve, weights, fault, cause):
    path = weights / "echo" / "model.safetensors"
    fault(path)
    server = serve("--weights", str(weights), until="listening")
    assert server.wait_exit() == 1
    (line,) = [line for line in server.lines if "listening on" not in line]
    assert f"{path}: " in line
    assert cause in line


def test_models_that_do_not_fit_are_refused_with_a_table(serve, weights):
    server = serve("--weights", str(weights), env={"GENSERVE_MEMORY_LIMIT": "1"}, until="listening")
    assert server.wait_exit() == 1
    assert "the models do not fit on cpu" in server.log
    rows = [line.split()[0] for line in server.lines if line.endswith("MiB")]
    assert rows == ["echo", "(while", "needed", "available"]


def test_a_port_that_is_taken(serve, weights):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = serve("--weights", str(weights), "--port", str(taken.getsockname()[1]), until="started")
        assert server.wait_exit() == 1
    assert "address already in use" in server.log


def test_sigterm_while_the_models_are_loaded(serve, weights, tmp_path):
    gate = tmp_path / "build_gate"
    fakes.write(weights, "slow", build_gate=str(gate))
    gate.touch()
    server = serve("--weights", str(weights), until="listening")
    wait_until(fakes.held(gate).exists, "the worker does not reach the gate")
    workers = server.workers
    assert ready_status(server) == 503
    server.terminate()
    gate.unlink()
    assert server.wait_exit() == 0
    wait_until(lambda: not any(map(alive, workers)), "a worker is left behind")
