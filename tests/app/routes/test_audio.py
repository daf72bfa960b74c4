"""`POST /v1/audio/generate` and OpenAI's route: the right samples, whole or as they are made, with their story."""

import asyncio
import contextlib
import http.client
import json
import socket

import httpx
import openai
import pytest

from app import latents, wav
from app.settings import Settings
from tests import fake_outputs as fakes
from tests import fake_sequences
from tests import fakes as pictures
from tests.app.test_wav import read
from tests.conftest import running, stock_client
from tests.serving import PATIENCE, eventually, serving, wait_until

URL, OPENAI = "/v1/audio/generate", "/v1/audio/speech"


def expected(text, samples):
    """Samples that must come for a transcript."""
    return wav.MU_LAW[fakes.hummed(text, samples)].tolist()


@pytest.fixture
def audio_settings(tmp_path, gate):
    """Settings for "humming" and, that a default can be wrong, "echo" and "counting"."""
    folder = tmp_path / "audio-weights"
    fakes.write_humming(folder, gate=str(gate))
    pictures.write(folder, "echo", gate=str(gate))
    fake_sequences.write(folder, "counting", "counting", gate=str(gate))
    fixed = {"weights": folder, "models_module": "tests.fake_outputs", "device": "cpu", "max_slots": 4, "dtype": "fp32"}
    return lambda **fields: Settings(**{**fixed, **fields})


@pytest.fixture
async def client(audio_settings):
    async with running(audio_settings()) as client:
        yield client


async def ask(client, **body):
    response = await client.post(URL, json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "audio/wav"
    return response


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("text", ["a", "Hello there", "ZZ zz"])
async def test_a_transcript_becomes_sound(client, text, stream):
    rate, samples, _ = read((await ask(client, prompt=text, stream=stream)).content)
    assert rate == fakes.RATE
    assert samples.tolist() == expected(text.lower(), len(text) * fakes.SAMPLES_A_LETTER)


@pytest.mark.parametrize(("speed", "samples"), [(0.25, 240), (1, 60), (1.5, 40), (4.0, 15)])
async def test_speed(client, speed, samples):
    assert read((await ask(client, prompt="abc", speed=speed)).content)[1].tolist() == expected("abc", samples)


@pytest.mark.parametrize("seconds", [0.001, 0.5, 0.3333, 4.0])
async def test_so_many_seconds_as_were_asked_for(client, seconds):
    _, samples, story = read((await ask(client, prompt="a b", seconds=seconds)).content)
    assert samples.tolist() == expected("a b", round(seconds * fakes.RATE))
    assert story["parameters"]["seconds"] == len(samples) / fakes.RATE


async def test_streamed_and_whole_differ_in_the_lengths_only(client):
    whole, streamed = [(await ask(client, prompt="abc", seed=1, stream=stream)).content for stream in (False, True)]
    assert len(whole) == len(streamed)
    assert streamed[4:8] == b"\xff" * 4
    assert streamed[8:].replace(b"data\xff\xff\xff\xff", b"") == whole[8:].replace(b"data" + _size(60), b"")


def _size(samples):
    return (samples * wav.SAMPLE_BYTES).to_bytes(4, "little")


async def test_headers_and_story_tell_how_to_make_it_again(client):
    response = await ask(client, prompt="secret", seed=5, temperature=0.5, top_k=3)
    info = client.app.state.engine.models["humming"]
    assert response.headers["x-genserve-model"] == info.identity
    assert response.headers["x-genserve-seed"] == "5"
    assert response.headers["x-genserve-runtime"].startswith("cpu; float32; torch 2.")
    story = read(response.content)[2]
    parameters = {"seed": 5, "seconds": 0.12, "temperature": 0.5, "top_k": 3}
    assert (story["model"], story["parameters"]) == (info.identity, parameters)
    told = await ask(client, prompt="secret", seed=5, temperature=0.5, top_k=3, prompt_in_provenance=True)
    assert read(told.content)[2]["parameters"] == {**parameters, "prompt": "secret"}
    drawn = await ask(client, prompt="a")
    again = await ask(client, prompt="a", seed=int(drawn.headers["x-genserve-seed"]))
    assert again.content == drawn.content


async def test_many_at_once_each_say_their_own(client):
    """More clips than slots, of many lengths, streamed and whole."""
    texts = [chr(ord("a") + i) * (1 + i % 5) for i in range(12)]
    bodies = [{"prompt": text, "stream": i % 2 == 0} for i, text in enumerate(texts)]
    answers = await asyncio.gather(*(ask(client, **body) for body in bodies))
    for text, answer in zip(texts, answers, strict=True):
        assert read(answer.content)[1].tolist() == expected(text, len(text) * fakes.SAMPLES_A_LETTER)


async def test_seconds_are_counted(client):
    await ask(client, prompt="a", seconds=1.5)
    await ask(client, prompt="a", seconds=0.25, stream=True)
    registry = client.app.state.telemetry.registry
    assert registry.get_sample_value("genserve_audio_seconds_total", {"model": "humming"}) == pytest.approx(1.75)


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({}, "prompt", "required"),
        ({"prompt": ""}, "prompt", "at least 1"),
        ({"prompt": 3}, "prompt", "string"),
        ({"prompt": "a" * 4097}, "prompt", "at most 4096"),
        ({"prompt": "naïve 7 cafés"}, "prompt", "does not know 'ï', '7', 'é'; it reads ' abc"),
        ({"prompt": "0123456789"}, "prompt", "and 2 more"),
        ({"prompt": "a" * 25}, "prompt", "25 letters; humming takes 24"),
        ({"prompt": "a", "seconds": 4.1}, "seconds", "4.1 s of sound; humming makes 0.001 to 4 s"),
        ({"prompt": "a", "seconds": 0.0001}, "seconds", "makes 0.001 to 4 s"),
        ({"prompt": "a", "seconds": 0}, "seconds", "greater than 0"),
        ({"prompt": "a", "seconds": 3601}, "seconds", "less than or equal to 3600"),
        ({"prompt": "a", "seconds": "1"}, "seconds", "number"),
        ({"prompt": "a", "seed": latents.MAX_SEED + 1}, "seed", "less than or equal"),
        ({"prompt": "a", "voice": "alloy"}, "voice", "unknown"),
        ({"prompt": "a", "speed": 0.2}, "speed", "greater than or equal to 0.25"),
        ({"prompt": "a", "speed": 1.0, "seconds": 1.0}, "speed", "no meaning beside seconds"),
    ],
)
async def test_what_makes_no_sense_is_named(client, body, field, said):
    response = await client.post(URL, json=body)
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, response.json()["field"]) == (400, field)
    assert said in response.json()["detail"]


async def test_the_operator_s_limit(audio_settings):
    async with running(audio_settings(max_audio_seconds=0.05)) as client:
        assert len(read((await ask(client, prompt="ab")).content)[1]) == 40
        refused = await client.post(URL, json={"prompt": "abc"})
        assert (refused.status_code, refused.json()["field"]) == (400, "prompt")
        assert "0.06 s of sound; humming makes 0.001 to 0.05 s" in refused.json()["detail"]


@pytest.mark.parametrize(("accept", "status"), [("audio/*", 200), ("audio/wav", 200), ("audio/mpeg", 406)])
async def test_accept(client, accept, status):
    assert (await client.post(URL, json={"prompt": "a"}, headers={"Accept": accept})).status_code == status


@pytest.mark.parametrize("model", ["echo", "counting", "nobody"])
async def test_other_models_do_not_speak(client, model):
    refused = await client.post(URL, json={"prompt": "a", "model": model})
    assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (404, "model_not_found", "model")
    assert "that makes speech is served (served: humming)" in refused.json()["detail"]


async def test_it_is_no_text_or_picture_model(client):
    for route in ("/v1/text/complete", "/v1/completions", "/v1/images/generate", "/v1/images/generations"):
        assert (await client.post(route, json={"model": "humming", "prompt": "a"})).status_code == 404
    text = await client.post("/v1/text/complete", json={"prompt": "a", "max_tokens": 3})
    assert text.headers["x-genserve-model"].startswith("counting@")
    card = (await client.get("/v1/models/humming")).json()["genserve"]
    assert (card["makes"], card["output"]) == ("speech", fakes.SPEECH)


@pytest.mark.parametrize("stream", [False, True])
async def test_one_bad_transcript_fails_alone(client, stream):
    """In the midst of others, after its first samples have been made."""
    texts = ["abc", "b", f"ab{fakes.RAISE}", "zz"]
    bodies = [{"prompt": text, "seconds": 0.4, "stream": stream and fakes.RAISE not in text} for text in texts]
    answers = await asyncio.gather(*(client.post(URL, json=body) for body in bodies))
    assert answers[2].json()["code"] == "compute_failed"
    for text, answer in zip(texts, answers, strict=True):
        if fakes.RAISE not in text:
            assert read(answer.content)[1].tolist() == expected(text, 400)


@pytest.mark.parametrize("stream", [False, True])
async def test_deadlines(client, gate, stream):
    """Of a stream for the first sample, else for all of it."""
    body = {"prompt": fakes.WAIT, "seconds": 0.1, "stream": stream}
    asked = asyncio.ensure_future(client.post(URL, json=body, headers={"X-Request-Timeout": "0.3"}))
    await eventually(lambda: pictures.held(gate).exists())
    if not stream:
        assert (await asked).json()["code"] == "deadline_exceeded"
    else:
        late = await client.post(URL, json=body, headers={"X-Request-Timeout": "0.2"})
        assert late.json()["code"] == "deadline_exceeded", "its first sample has to wait for the tick before"
    gate.unlink()
    if stream:
        assert len(read((await asked).content)[1]) == 100
    await eventually(lambda: client.app.state.engine.in_flight == 0)


# OpenAI's route


@pytest.fixture
async def stock(client):
    async with stock_client(client) as ai:
        yield ai


@pytest.mark.parametrize(
    ("asked", "native"),
    [
        ({"voice": "default"}, {}),
        ({"voice": "default", "model": "humming", "speed": 2.0, "response_format": "wav"}, {"speed": 2.0}),
        ({"voice": "default", "extra_body": {"seed": 9}, "stream_format": "audio"}, {"seed": 9, "stream": True}),
    ],
)
async def test_the_stock_client_gets_the_same_sound(client, stock, asked, native):
    answer = await stock.audio.speech.create(**{"model": None, "input": "Abc", **asked})
    seed = int(answer.response.headers["x-genserve-seed"])
    assert answer.response.headers["content-type"] == "audio/wav"
    assert answer.content == (await ask(client, **{"prompt": "Abc", "seed": seed, **native})).content


async def test_the_stock_client_streams(stock):
    asked = {"model": "humming", "input": "abc", "voice": "default", "stream_format": "audio"}
    async with stock.audio.speech.with_streaming_response.create(**asked) as answer:
        content = b"".join([piece async for piece in answer.iter_bytes()])
    assert read(content)[1].tolist() == expected("abc", 60)


@pytest.mark.parametrize(
    ("asked", "param", "said"),
    [
        ({"input": "7"}, "input", "input: humming does not know '7'"),
        ({"input": ""}, "input", "at least 1"),
        ({"voice": "alloy"}, "voice", "'default'"),
        ({"response_format": "mp3"}, "response_format", "'wav'"),
        ({"stream_format": "sse"}, "stream_format", "'audio'"),
        ({"instructions": "Whisper."}, "instructions", "at most 0"),
        ({"speed": 9.0}, "speed", "less than or equal to 4"),
        ({"extra_body": {"seconds": 1}}, "seconds", "unknown"),
    ],
)
async def test_what_the_stock_client_can_t_have(stock, asked, param, said):
    with pytest.raises(openai.BadRequestError) as caught:
        await stock.audio.speech.create(**{"model": "humming", "input": "abc", "voice": "default", **asked})
    assert caught.value.param == param
    assert said in caught.value.message


# on a real server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Two slots."""
    folder = tmp_path_factory.mktemp("sound")
    fakes.write_humming(folder / "weights", gate=str(folder / "gate"))
    env = {"GENSERVE_MODELS_MODULE": "tests.fake_outputs", "GENSERVE_MAX_SLOTS": "2"}
    with serving("--weights", str(folder / "weights"), env=env) as server:
        server.gate = folder / "gate"
        yield server
        server.gate.unlink(missing_ok=True)


@contextlib.contextmanager
def asking(server, **body):
    """A request on a socket of its own, closed at the end whatever has come."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("POST", URL, json.dumps(body), {"Content-Type": "application/json"})
        yield connection


def settled(server):
    """Nothing is in flight, no slot is taken."""
    wait_until(lambda: server.metric("genserve_queue_depth") == 0, "something is still queued")
    wait_until(lambda: server.metric("genserve_slots_busy") == 0, "a slot is still taken")


def test_the_first_samples_come_before_the_last_are_made(server):
    server.gate.touch()
    with asking(server, prompt=fakes.WAIT, seconds=1, stream=True) as connection:
        response = connection.getresponse()
        assert response.headers["Transfer-Encoding"] == "chunked"
        head = response.read(100)
        assert head[:8] == b"RIFF\xff\xff\xff\xff"
        server.gate.unlink()
        content = head + response.read()
    assert read(content)[1].tolist() == expected(fakes.WAIT, 1000)
    settled(server)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(server, stream):
    before = server.metric("genserve_cancelled_total", model="humming")
    with asking(server, prompt=fakes.NAP, seconds=4, stream=stream) as connection:
        if stream:
            assert connection.getresponse().read(1)
        wait_until(lambda: server.metric("genserve_slots_busy", model="humming") == 1, "it does not run")
        connection.sock.shutdown(socket.SHUT_RDWR)
    settled(server)
    assert server.metric("genserve_cancelled_total", model="humming") == before + 1
    assert server.metric("genserve_requests_total", route=URL, code="499") >= 1


def test_a_failure_after_the_first_samples_breaks_the_answer_off(server):
    """The client sees that something is missing: the chunk that ends a body never comes."""
    with asking(server, prompt=fakes.RAISE, seconds=1, stream=True) as connection:
        response = connection.getresponse()
        assert response.status == 200
        with pytest.raises(http.client.IncompleteRead) as caught:
            response.read()
    assert 0 < len(caught.value.partial) < 1000
    said = "humming: broken off after the first samples: the model raised ValueError"
    wait_until(lambda: said in server.log, "the log does not say why")
    assert "Traceback" not in server.log
    settled(server)
    answer = httpx.post(f"{server.url}{URL}", json={"prompt": "a"}, timeout=PATIENCE)
    assert read(answer.content)[1].tolist() == expected("a", 20)
