"""The HTTP server: its drain, and a transport that gathers what belongs together. Whole runs: tests/test_server.py."""

import asyncio
import contextlib
import io
import json
import socket
import zipfile

import httpx
import numpy as np
import pytest
import uvloop
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse
from uvicorn.server import ServerState

from app import codecs
from app.server import ANSWER_SECONDS, Corked, Protocol, Server
from tests import fake_sequences, fakes
from tests.serving import PATIENCE, wait_until

# the drain


class Engine:
    failure, in_flight = None, 3

    def __init__(self):
        self.drained, self.done = [], asyncio.Event()

    async def drain(self, seconds):
        self.drained.append(seconds)
        await self.done.wait()


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
    await asyncio.sleep(0)
    assert server.should_exit
    assert server.force_exit
    assert engine.drained == [9.0]
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


# one write an answer


class Transport:
    """Keeps what is written to it, write by write."""

    def __init__(self):
        self.writes, self.closed = [], False

    def write(self, data):
        assert not self.closed
        self.writes.append(bytes(data))

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed

    def get_extra_info(self, name, default=None):
        return default


async def turns(count=3):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_one_turn_writes_leaves_as_one():
    transport = Transport()
    corked = Corked(transport, asyncio.get_running_loop())
    corked.write(b"head")
    corked.write(b"body")
    assert transport.writes == []
    await turns()
    assert transport.writes == [b"headbody"]
    corked.write(b"more")
    await turns()
    assert transport.writes == [b"headbody", b"more"]


async def test_closing_writes_what_is_held():
    transport = Transport()
    corked = Corked(transport, asyncio.get_running_loop())
    corked.write(b"a last ")
    corked.write(b"word")
    corked.close()
    assert transport.writes == [b"a last word"]
    assert transport.closed
    await turns()
    assert transport.writes == [b"a last word"], "and no second time"


def test_a_client_that_leaves_before_the_write_is_no_error():
    """uvloop's transport raises when it is written to after its end."""
    faults, lost = [], asyncio.Event()

    class Leaving(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            self.corked = Corked(transport, asyncio.get_running_loop())

        def data_received(self, data):
            self.transport.abort()
            self.corked.write(b"too late")

        def connection_lost(self, error):
            lost.set()

    async def visit():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: faults.append(context))
        async with await loop.create_server(Leaving, "127.0.0.1", 0) as server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello")
            await asyncio.wait_for(lost.wait(), PATIENCE)
            await turns(10)
            writer.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(visit())
    assert faults == []


def application():
    """Answers of all kinds; `release` lets the stream's second event go."""
    app, app.state.release = FastAPI(), asyncio.Event()

    @app.get("/number/{number}")
    async def number(number: int):
        await asyncio.sleep(0.001 * (number % 3))  # the later ones would be ready first
        return {"number": number}

    @app.get("/events")
    async def events():
        async def body():
            yield b"data: 1\n\n"
            await app.state.release.wait()
            yield b"data: 2\n\n"

        return StreamingResponse(body(), media_type="text/event-stream")

    @app.get("/zip")
    async def archive():
        noise = np.random.default_rng(0)
        return Response(codecs.archive((f"{i}.bin", noise.bytes(1 << 20)) for i in range(8)))

    return app


@contextlib.asynccontextmanager
async def listening(app):
    """The server on a free port of 127.0.0.1, in this loop; gives host and port."""
    server = Server(app, "127.0.0.1", 0, 1.0)
    running = asyncio.create_task(server.serve())
    async with asyncio.timeout(PATIENCE):
        while not server.started:  # noqa: ASYNC110  # uvicorn announces it to nobody
            await asyncio.sleep(0.001)
        yield server.servers[0].sockets[0].getsockname()
        server.should_exit = True
        await running


@pytest.mark.parametrize("close", [False, True])
async def test_head_and_body_of_an_answer_are_one_write(close):
    server = Server(application(), "127.0.0.1", 0, 1.0)
    server.config.load()
    transport, protocol = Transport(), Protocol(server.config, ServerState(), {})
    protocol.connection_made(transport)
    for number in (1, 2):
        extra = b"Connection: close\r\n" if close and number == 2 else b""
        protocol.data_received(b"GET /number/%d HTTP/1.1\r\nHost: x\r\n%s\r\n" % (number, extra))
        async with asyncio.timeout(PATIENCE):
            while len(transport.writes) < number:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    await turns()
    assert len(transport.writes) == 2
    for number, answer in enumerate(transport.writes, 1):
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b'\r\n\r\n{"number":%d}' % number)
    assert transport.closed == close
    protocol.connection_lost(None)


async def test_pipelined_requests_are_answered_in_order():
    async with listening(application()) as (host, port):
        reader, writer = await asyncio.open_connection(host, port)
        for number in range(30):
            writer.write(b"GET /number/%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
        for number in range(30):
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            assert json.loads(await reader.readexactly(size)) == {"number": number}
        writer.close()


async def test_events_leave_one_by_one():
    app = application()
    async with (
        listening(app) as (host, port),
        httpx.AsyncClient(timeout=PATIENCE) as client,
        client.stream("GET", f"http://{host}:{port}/events") as response,
    ):
        parts = response.aiter_raw()
        assert await anext(parts) == b"data: 1\n\n", "while the second is not even made"
        app.state.release.set()
        assert await anext(parts) == b"data: 2\n\n"


async def test_a_slow_reader_gets_all_of_a_large_archive():
    """Megabytes beyond what the sockets hold: they wait in the server, in order."""
    async with listening(application()) as address:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, address)
            await loop.sock_sendall(sock, b"GET /zip HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            received = bytearray()
            while part := await loop.sock_recv(sock, 65536):
                received += part
                await turns()
    head, _, content = bytes(received).partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(content) in head.lower()
    noise = np.random.default_rng(0)
    with zipfile.ZipFile(io.BytesIO(content)) as bundle:
        assert [bundle.read(f"{i}.bin") for i in range(8)] == [noise.bytes(1 << 20) for _ in range(8)]


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
