"""The programs that will read the metrics: promtool finds no fault, and a real Prometheus finds the numbers."""

import asyncio
import contextlib
import shutil
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from tests import fake_sequences, fakes
from tests.serving import PATIENCE, serving, wait_until

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool (Debian's prometheus)")
needs_prometheus = pytest.mark.skipif(not shutil.which("prometheus"), reason="needs Debian's prometheus")
CLIENTS, REQUESTS = 32, 8
CONFIG = """
global: {{scrape_interval: 500ms, scrape_timeout: 450ms}}
scrape_configs:
  - job_name: genserve
    static_configs: [{{targets: ["{target}"]}}]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that has made pictures for 32 clients at once, said something, refused something."""
    folder = tmp_path_factory.mktemp("metrics")
    gate = folder / "gate"
    fakes.write(folder / "weights", "echo", gate=str(gate))
    fake_sequences.write(folder / "weights", "counting", "counting")
    env = {"GENSERVE_MODELS_MODULE": "tests.fake_sequences"}
    with serving("--weights", str(folder / "weights"), env=env) as server:
        asyncio.run(use(server, gate))
        yield server


async def use(server, gate):
    """Each round, all clients' requests wait while the device is held, as they do behind a slower network."""
    limits = httpx.Limits(max_connections=CLIENTS + 2)
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE, limits=limits) as client:
        for _ in range(REQUESTS):
            gate.touch()
            fakes.held(gate).unlink(missing_ok=True)
            holder = asyncio.ensure_future(pictures(client, latents=[fakes.GATE, 0, 0, 0]))
            while not fakes.held(gate).exists():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            clients = [asyncio.ensure_future(pictures(client, n=2)) for _ in range(CLIENTS)]
            while await in_flight(client) < 2 * CLIENTS + 1:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            gate.unlink()
            await asyncio.gather(holder, *clients)
        for body in ({}, {"n": 2}, {"stop": "\x05"}, {"top_k": -1}):
            await client.post("/v1/text/complete", json={"max_tokens": 20, **body})
        assert (await client.post("/v1/completions", json={"stream": True})).status_code == 200


async def pictures(client, **body):
    assert (await client.post("/v1/images/generate", json=body)).status_code == 200


async def in_flight(client):
    text = (await client.get("/metrics")).text
    (line,) = [line for line in text.splitlines() if line.startswith('genserve_queue_depth{model="echo"}')]
    return float(line.split()[-1])


@needs_promtool
def test_promtool_finds_no_fault(server):
    """Names, help, units and types; any word of it is a complaint."""
    text = httpx.get(f"{server.url}/metrics", timeout=PATIENCE).content
    for name in (b"genserve_images_total", b"genserve_tokens_total", b"genserve_time_to_first_token_seconds_bucket"):
        assert name in text
    own = b"".join(line for line in text.splitlines(keepends=True) if b"genserve_" in line)
    assert own.count(b"# HELP") >= 18
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture(scope="module")
def query(server, tmp_path_factory):
    """`query(expression)` at a Prometheus that scrapes the server: values by labels."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "prometheus.yml").write_text(CONFIG.format(target=server.url.removeprefix("http://")))
    url = f"http://127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address={url.removeprefix('http://')}"], stdout=log, stderr=log, cwd=folder
        )

    def ask(expression):
        assert process.poll() is None, Path(folder / "log").read_text()
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}, timeout=PATIENCE)
            if answer.status_code == 200:
                found = answer.json()["data"]["result"]
                return {tuple(sorted(one["metric"].items())): float(one["value"][1]) for one in found}
        return {}

    try:
        wait_until(lambda: sum(ask("up").values()) == 1, "Prometheus does not reach the server")
        yield ask
    finally:
        process.terminate()
        process.wait(PATIENCE)


def total(found):
    return sum(found.values())


@needs_prometheus
def test_prometheus_reads_them(query):
    asked, made = REQUESTS * (CLIENTS + 1), REQUESTS * (2 * CLIENTS + 1)
    assert total(query('genserve_requests_total{code="200",route="/v1/images/generate"}')) == asked
    assert total(query('genserve_requests_total{code="200",model="counting"}')) == 4
    assert total(query('genserve_requests_total{code="400",route="/v1/text/complete"}')) == 1
    assert total(query("genserve_images_total")) == made
    assert total(query('genserve_tokens_total{kind="completion"}')) > 80
    assert total(query("genserve_model_ready")) == 2
    assert len(query("genserve_model_info")) == 2
    assert total(query("genserve_queue_depth + on(model) genserve_slots_busy")) == 0


@needs_prometheus
def test_batching_can_be_seen(query):
    """The mean batch under 32 clients, as the operations page says to look at it."""
    mean = 'genserve_batch_size_sum{model="echo"} / genserve_batch_size_count{model="echo"}'
    assert total(query(mean)) > 8


@needs_prometheus
def test_waiting_computing_and_encoding_are_told_apart(query):
    for part in ("queue", "compute", "encode"):
        name = f"genserve_{part}_duration_seconds"
        assert total(query(f'{name}_count{{model="echo"}}')) > 0
        assert total(query(f'histogram_quantile(0.5, {name}_bucket{{model="echo"}})')) > 0
    assert total(query("genserve_time_to_first_token_seconds_count")) == 5
    assert total(query("genserve_inter_token_latency_seconds_count")) >= 5
