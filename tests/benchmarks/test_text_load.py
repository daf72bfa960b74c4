import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from tokenizers import Tokenizer

from benchmarks import text_load
from benchmarks.generators import ROOT
from benchmarks.text_load import Target
from benchmarks.text_prompts import Prompt

TOKENIZER = ROOT / "weights/shakespeare-gpt/tokenizer.json"
PROMPTS = [Prompt(f"prompt {number}", (number, 2, 3)) for number in range(12)]


class Peer:
    """A server of completions that keeps what it was asked, and how many it answered at once."""

    def __init__(self, short=0, status=200):
        self.short, self.status, self.bodies, self.now, self.most = short, status, [], 0, 0

    async def complete(self, request):
        body = await request.json()
        self.bodies.append(body)
        if self.status != 200:
            return web.json_response({"error": "busy"}, status=self.status)
        self.now += 1
        self.most = max(self.most, self.now)
        response = web.StreamResponse()
        await response.prepare(request)
        for number in range(body["max_tokens"]):
            await asyncio.sleep(0.002)
            await self._send(response, choices=[{"text": f"{number}"}])
        usage = {"prompt_tokens": 3, "completion_tokens": body["max_tokens"] - self.short}
        await self._send(response, choices=[], usage=usage)
        self.now -= 1
        return response

    async def _send(self, response, **fields):
        await response.write(b"data: " + json.dumps(fields).encode() + b"\n\n")


@asynccontextmanager
async def listening(peer):
    app = web.Application()
    app.router.add_post(text_load.PATH, peer.complete)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield "http://{}:{}".format(*runner.addresses[0])
    finally:
        await runner.cleanup()


async def loop(peer, clients=4, tokens=5, **target):
    async with listening(peer) as url:
        return await text_load.closed_loop(Target(url, "model", **target), PROMPTS, clients, tokens, len)


async def test_every_prompt_is_sent_once_by_so_many_clients():
    peer = Peer()
    found = await loop(peer)
    assert sorted(body["prompt"][0] for body in peer.bodies) == list(range(12))
    assert peer.most == 4
    assert (found.completions, found.failed, found.errors) == (12, 0, ())


async def test_rates_and_waits():
    found = await loop(Peer())
    assert found.tokens_per_second == pytest.approx(12 * 5 / found.seconds)
    assert 0.002 <= found.first_p50 <= found.first_p99 < found.seconds
    assert 0 < found.between_p50 <= found.between_p99 <= found.gap_p99
    assert found.client_cpu_share > 0


async def test_completions_of_another_length_fail():
    found = await loop(Peer(short=1))
    assert (found.completions, found.failed, found.tokens_per_second) == (0, 12, 0)
    assert found.errors == ("3 -> 5 tokens were asked for, the server counts 3 -> 4",)
    assert found.first_p50 is None


async def test_refusals_and_dead_servers_fail():
    found = await loop(Peer(status=503))
    assert found.errors == ('status 503: {"error": "busy"}',)
    gone = await text_load.closed_loop(Target("http://127.0.0.1:9", "model"), PROMPTS[:1], 1, 5, len)
    assert gone.errors[0].startswith("ClientConnectorError")


def test_a_body_is_greedy_and_exact():
    body = json.loads(Target("", "model").body(PROMPTS[0], 64))
    assert body == {
        "model": "model",
        "prompt": [0, 2, 3],
        "max_tokens": 64,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }
    text = json.loads(Target("", "model", {}, takes_tokens=False).body(PROMPTS[0], 64))
    assert text["prompt"] == "prompt 0"
    assert "ignore_eos" not in text


def test_the_program_loads_a_server(capsys, monkeypatch):
    peer = Peer()

    async def run():
        async with listening(peer) as url:
            arguments = ["text_load", url, "model", "--tokenizer", str(TOKENIZER), "--prompt", "3", "--tokens", "4"]
            monkeypatch.setattr("sys.argv", [*arguments, "--clients", "1", "2", "--each", "2"])
            await asyncio.to_thread(text_load.main)

    asyncio.run(run())
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("clients  tokens/s")
    assert [line.split()[0] for line in lines] == ["1", "2"]
    assert len({tuple(body["prompt"]) for body in peer.bodies}) == len(peer.bodies) == (1 + 2) + (2 + 4)


def test_tokens_of_a_piece_are_the_tokenizers():
    count = text_load.counter(Tokenizer.from_file(str(TOKENIZER)))
    assert count("") == 0
    assert 2 <= count("to be, or not to be") < 19
