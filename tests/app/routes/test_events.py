"""Streams over real sockets: they come as they are made, say that they live, and end when the reader leaves."""

import asyncio
import contextlib
import dataclasses
import http.client
import json
import socket

import httpx
import openai
import pytest

from app.routes.events import PING, Pinged, event
from models import checkpoint
from models.config import read_config, write_config
from tests import fake_sequences as fakes
from tests import fakes as pictures
from tests.serving import PATIENCE, serving, wait_until

ROUTES = ("/v1/text/complete", "/v1/completions")


# in this process


class Sent:
    """What a `send` was given."""

    def __init__(self):
        self.bodies, self.changed = [], asyncio.Event()

    async def __call__(self, message):
        self.bodies.append(message.get("body", b"head"))
        self.changed.set()

    async def until(self, count):
        async with asyncio.timeout(PATIENCE):
            while len(self.bodies) < count:
                self.changed.clear()
                await self.changed.wait()


def body(content, *, more=True):
    return {"type": "http.response.body", "body": content, "more_body": more}


async def test_silence_is_filled():
    sent = Sent()
    pinged = Pinged(sent, 0.005)
    await pinged({"type": "http.response.start"})
    await sent.until(4)
    await pinged(body(b"0"))
    await sent.until(len(sent.bodies) + 2)
    assert [said for said in sent.bodies if said != PING] == [b"head", b"0"]
    await pinged(body(b"", more=False))
    said = list(sent.bodies)
    await asyncio.sleep(0.05)
    assert sent.bodies == said, "nothing follows the end"


async def test_no_pings_while_something_comes():
    sent = Sent()
    pinged = Pinged(sent, 60)
    await pinged({"type": "http.response.start"})
    for index in range(50):
        await pinged(body(str(index).encode()))
        await asyncio.sleep(0)
    pinged.stop()
    assert sent.bodies == [b"head", *(str(index).encode() for index in range(50))]


async def test_nothing_is_said_before_the_head_or_after_leaving():
    sent = Sent()
    pinged = Pinged(sent, 0.001)
    pinged.stop()
    await asyncio.sleep(0.01)
    assert sent.bodies == []
    await pinged({"type": "http.response.start"})
    pinged.stop()
    await asyncio.sleep(0.01)
    assert sent.bodies == [b"head"]


def test_an_event_is_one_block():
    assert event(json.dumps({"text": "a\n\nb"})) == b'data: {"text": "a\\n\\nb"}\n\n'


# on a real server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Two slots, a comment after every 50 ms of silence, and models that never end a text themselves."""
    folder = tmp_path_factory.mktemp("streams")
    gate = folder / "gate"
    for name in ("counting", "digest"):
        fakes.write(folder / "weights", name, name, eos=None, gate=str(gate), max_length=2048)
    template = checkpoint.write_template(folder / "weights" / "counting", "{{ messages[0].content }}")
    config = read_config(folder / "weights" / "counting")
    write_config(folder / "weights" / "counting", dataclasses.replace(config, chat_template=template))
    pictures.write(folder / "weights", "echo", gate=str(gate))
    env = {
        "GENSERVE_MODELS_MODULE": "tests.fake_sequences",
        "GENSERVE_MAX_SLOTS": "2",
        "GENSERVE_PING_SECONDS": "0.05",
    }
    with serving("--weights", str(folder / "weights"), env=env) as server:
        server.gate = gate
        yield server
        gate.unlink(missing_ok=True)


@pytest.fixture
def gate(server):
    """Holds the device while it exists."""
    pictures.held(server.gate).unlink(missing_ok=True)
    server.gate.touch()
    yield server.gate
    server.gate.unlink(missing_ok=True)


@contextlib.contextmanager
def asking(server, route, **body):
    """A request on a socket of its own, closed at the end whatever has come."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("POST", route, json.dumps({"model": "digest", **body}), {"Content-Type": "application/json"})
        yield connection


def settled(server):
    """Nothing is in flight, no slot is taken."""
    wait_until(lambda: server.metric("genserve_queue_depth") == 0, "something is still queued")
    wait_until(lambda: server.metric("genserve_slots_busy") == 0, "a slot is still taken")


def test_comments_while_nothing_comes(server, gate):
    with asking(server, ROUTES[0], prompt=fakes.GATE_PREFILL, max_tokens=3, stream=True) as connection:
        response = connection.getresponse()
        assert response.status == 200
        assert response.read(len(PING) * 3) == PING * 3, "before the first token"
        gate.unlink()
        rest = response.read().replace(PING, b"")
    assert rest.count(b"data: {") >= 1
    assert rest.endswith(b"data: [DONE]\n\n")


def test_comments_between_tokens_and_the_stock_client_minds_none(server, gate):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        events = client.completions.create(model="counting", prompt=f"{fakes.GATE}a", max_tokens=5, stream=True)
        first = next(iter(events))
        wait_until(pictures.held(gate).exists, "the worker does not reach the gate")
        gate.unlink()
        assert first.choices[0].text + "".join(event.choices[0].text for event in events) == "bcdef"


def test_a_chat_with_the_stock_client(server):
    """Over real sockets, with the template of a weights folder."""
    body = {"model": "counting", "messages": [{"role": "user", "content": "a"}], "max_tokens": 5}
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        assert client.models.retrieve("counting").genserve["chat"] is True
        assert client.chat.completions.create(**body).choices[0].message.content == "bcdef"
        events = client.chat.completions.create(**body, stream=True)
        assert "".join(event.choices[0].delta.content or "" for event in events) == "bcdef"
        with pytest.raises(openai.BadRequestError, match="digest has no chat template"):
            client.chat.completions.create(**{**body, "model": "digest"})


async def test_a_chat_with_the_stock_asynchronous_client(server):
    body = {"model": "counting", "messages": [{"role": "user", "content": "a"}], "max_tokens": 5}
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        answers = await asyncio.gather(*(client.chat.completions.create(**body) for _ in range(4)))
        assert [answer.choices[0].message.content for answer in answers] == ["bcdef"] * 4
        events = await client.chat.completions.create(**body, stream=True)
        assert "".join([event.choices[0].delta.content or "" async for event in events]) == "bcdef"


def test_the_first_words_come_before_the_last_are_made(server, gate):
    with httpx.stream(
        "POST",
        f"{server.url}{ROUTES[0]}",
        json={"model": "counting", "prompt": f"{fakes.GATE}a", "max_tokens": 20, "stream": True},
        timeout=PATIENCE,
    ) as response:
        lines = (line for line in response.iter_lines() if line.startswith("data: "))
        assert json.loads(next(lines)[6:]) == {"index": 0, "text": "b"}
        gate.unlink()
        assert list(lines)[-1] == "data: [DONE]"


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 5])
def test_a_client_that_leaves_frees_its_slots(server, route, stream, n):
    """More choices than slots: what runs is stopped, what waits is never begun."""
    before = server.metric("genserve_cancelled_total", model="digest")
    with asking(server, route, prompt=fakes.NAP, max_tokens=2000, n=n, stream=stream) as connection:
        if stream:
            assert connection.getresponse().read(1)
        wait_until(lambda: server.metric("genserve_slots_busy", model="digest") == min(n, 2), "it does not run")
        connection.sock.shutdown(socket.SHUT_RDWR)
    settled(server)
    assert server.metric("genserve_cancelled_total", model="digest") == before + 1, "one client, one departure"
    answer = httpx.post(f"{server.url}{route}", json={"model": "digest", "max_tokens": 1}, timeout=PATIENCE)
    assert answer.status_code == 200


def test_a_client_that_leaves_before_its_first_token(server, gate):
    with asking(server, ROUTES[0], prompt=fakes.GATE_PREFILL, stream=True, n=3):
        wait_until(pictures.held(gate).exists, "the worker does not reach the gate")
        assert server.metric("genserve_queue_depth", model="digest") == 3
    wait_until(lambda: server.metric("genserve_queue_depth", model="digest") == 0, "its rows are still queued")
    gate.unlink()
    settled(server)


def test_a_client_that_leaves_a_conversation(server, gate):
    said = [{"role": "user", "content": f"{fakes.GATE_PREFILL}a"}]
    with asking(server, "/v1/chat/completions", model="counting", messages=said, max_tokens=20, n=3):
        wait_until(pictures.held(gate).exists, "the worker does not reach the gate")
        assert server.metric("genserve_queue_depth", model="counting") == 3
    wait_until(lambda: server.metric("genserve_queue_depth", model="counting") == 0, "its rows are still queued")
    gate.unlink()
    settled(server)


def test_a_failure_after_the_first_byte_ends_the_stream_and_nobody_else_s(server):
    good = {"prompt": "good", "max_tokens": 40, "seed": 1}
    with asking(server, ROUTES[0], **good) as connection:
        wanted = json.loads(connection.getresponse().read())
    with (
        asking(server, ROUTES[0], model="counting", prompt=f"{fakes.RAISE_STEP}a", stream=True) as bad,
        asking(server, ROUTES[0], **good) as neighbour,
    ):
        response = bad.getresponse()
        assert response.status == 200
        said = response.read().replace(PING, b"").decode()
        assert json.loads(neighbour.getresponse().read()) == wanted
    assert said.startswith('data: {"index": 0, "text": "b"}')
    error = said.split("\n\n")[-2]
    assert error.startswith("event: error\ndata: {")
    assert "[DONE]" not in said
    settled(server)


@pytest.mark.parametrize("route", ROUTES)
def test_an_error_before_the_first_byte_is_an_answer_of_its_own(server, route):
    with asking(server, route, prompt="x" * 4000, stream=True) as connection:
        response = connection.getresponse()
        assert response.status == 400
        assert b"prompt" in response.read()


async def test_streams_beside_each_other(server):
    """Eight streams over two slots: each is what it is alone."""
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE) as client:

        async def read(seed, stream):
            body = {"model": "digest", "prompt": f"the {seed}", "max_tokens": 30, "seed": seed, "stream": stream}
            response = await client.post(ROUTES[0], json=body)
            if not stream:
                return response.json()["choices"][0]["text"]
            events = [line[6:] for line in response.text.split("\n\n") if line.startswith("data: {")]
            return "".join(json.loads(data)["text"] for data in events)

        together = await asyncio.gather(*(read(seed, True) for seed in range(8)))
        assert together == [await read(seed, False) for seed in range(8)]


def test_the_drain_lets_streams_end(tmp_path):
    """SIGTERM in the middle of a stream: it is answered to its last word."""
    gate = tmp_path / "gate"
    gate.touch()
    fakes.write(tmp_path / "weights", "counting", "counting", gate=str(gate))
    env = {"GENSERVE_MODELS_MODULE": "tests.fake_sequences"}
    with serving("--weights", str(tmp_path / "weights"), env=env) as server:
        with asking(
            server, ROUTES[0], model="counting", prompt=f"{fakes.GATE}a", max_tokens=30, stream=True
        ) as connection:
            response = connection.getresponse()
            assert response.read(6) == b"data: "
            wait_until(pictures.held(gate).exists, "the worker does not reach the gate")
            server.terminate()
            wait_until(lambda: "draining: 1 requests in flight" in server.log, "it does not drain")
            gate.unlink()
            assert response.read().endswith(b"data: [DONE]\n\n")
        assert server.wait_exit() == 0
