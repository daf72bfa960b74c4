"""The HTTP server: its signals and its drain. Connections: test_protocol.py; whole runs: tests/test_server.py."""

import asyncio
import contextlib
import json
import signal
import socket

import httpx
import pytest
from fastapi import FastAPI

from app.server import ANSWER_SECONDS, Server
from tests import fake_sequences, fakes
from tests.listening import Client, request
from tests.serving import PATIENCE, alive, eventually, wait_until

# the drain


class Engine:
    failure, in_flight = None, 3

    def __init__(self):
        self.drained, self.done = [], asyncio.Event()

    async def drain(self, seconds):
        self.drained.append(seconds)
        await self.done.wait()

    def abandon(self):
        self.done.set()


@pytest.fixture
def server():
    app = FastAPI()
    app.state.engine = Engine()
    server = Server(app, "127.0.0.1", 0, 9.0)
    server.started = True
    return server


async def test_the_first_signal_drains_and_the_second_stops(server):
    engine = server._app.state.engine
    server._loop = asyncio.get_running_loop()
    server.handle_exit(15, None)
    for _ in range(3):
        await asyncio.sleep(0)
    assert engine.drained == [9.0]
    assert not server.should_exit
    server.handle_exit(15, None)
    await eventually(lambda: server.force_exit)
    assert server.should_exit
    assert engine.drained == [9.0]
    assert engine.done.is_set(), "what is in flight is told"
    await server._drain


async def test_the_second_signal_stops_whatever_the_engine_says(server):
    def abandon():
        raise ArithmeticError

    server._loop, engine = asyncio.get_running_loop(), server._app.state.engine
    engine.abandon = abandon
    server._loop.set_exception_handler(lambda *_: None)
    server.handle_exit(15, None)
    server.handle_exit(15, None)
    await eventually(lambda: server.force_exit)
    engine.done.set()
    await server._drain


async def test_after_the_drain_the_server_stops(server):
    server._app.state.engine.done.set()
    server.stop_gracefully()
    await server._drain
    assert server.should_exit
    assert not server.force_exit
    assert ANSWER_SECONDS <= server.config.timeout_graceful_shutdown <= 9


def test_a_signal_before_the_start_stops_at_once(server):
    server.started = False
    server.stop_gracefully()
    assert server.should_exit


async def test_a_failure_during_the_drain_is_not_a_second_signal(server):
    """The engine fails its requests and says so; their answers are still to be sent."""
    server._loop = asyncio.get_running_loop()
    server.handle_exit(signal.SIGINT, None)
    await asyncio.sleep(0)
    server.stop_gracefully()
    assert not server._app.state.engine.done.is_set()
    server.handle_exit(signal.SIGTERM, None)
    await eventually(lambda: server.force_exit)
    await server._drain


async def test_a_drain_that_fails_ends_all_the_same(server):
    async def drain(seconds):
        raise ArithmeticError

    server._app.state.engine.drain = drain
    server.stop_gracefully()
    with contextlib.suppress(ArithmeticError):
        await server._drain
    assert server.should_exit


# a real process


def test_tokens_arrive_while_the_next_one_is_computed(serve, tmp_path):
    """The model is held at its second token; the first has to be here by then."""
    gate = tmp_path / "gate"
    fake_sequences.write(tmp_path / "weights", "text", "counting", gate=str(gate), eos=None)
    server = serve("--weights", str(tmp_path / "weights"), env={"GENSERVE_MODELS_MODULE": "tests.fake_sequences"})
    gate.touch()
    body = {"prompt": fake_sequences.GATE, "max_tokens": 3, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/text/complete", json=body, timeout=PATIENCE) as response:
        lines = (line for line in response.iter_lines() if line.startswith("data: "))
        first = json.loads(next(lines).removeprefix("data: "))
        wait_until(fakes.held(gate).exists, "the step does not reach the gate")
        gate.unlink()
        *rest, done = lines
    texts = [first["text"], *(json.loads(line.removeprefix("data: "))["text"] for line in rest)]
    assert ("".join(texts), texts[0], done) == ("HIJ", "H", "data: [DONE]")


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_nobody_holds_up_the_end(serve, weights, gate, sent):
    """Idle connections, halves of requests, and a client that reads nothing of a large answer."""
    gate.unlink()
    server = serve("--weights", str(weights), env={"GENSERVE_DRAIN_SECONDS": "3", "GENSERVE_MAX_PIXELS": str(1 << 30)})
    workers = server.workers
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({"n": 64, "scale": 64, "format": "webp"}).encode()
    json_head = b"Content-Type: application/json\r\nContent-Length: %d\r\n"
    with contextlib.ExitStack() as stack:
        silent, idle, head, half, deaf = (
            stack.enter_context(Client((host, int(port)), receive_buffer=4096)) for _ in range(5)
        )
        idle.get("/health/live")
        assert idle.answer()[0] == 200
        head.send(b"GET /health")
        half.send(request("/v1/images/generate", json_head % 100, "POST") + b"{")
        deaf.send(request("/v1/images/generate", json_head % len(body) + b"Accept: application/zip\r\n", "POST") + body)
        wait_until(lambda: deaf.socket.recv(1, socket.MSG_PEEK), "its answer begins")
        server.process.send_signal(sent)
        assert [silent.rest(), idle.rest()] == [b"", b""]
        assert [client.problem() for client in (head, half)] == [(503, "draining")] * 2
        assert server.wait_exit() == 0
    wait_until(lambda: not any(map(alive, workers)), "a worker is left behind")
