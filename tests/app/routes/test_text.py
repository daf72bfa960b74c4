"""`POST /v1/text/complete` from outside: what is said, what it costs, what is refused."""

import asyncio
import json
import re

import pytest

from tests import fake_sequences as fakes
from tests.conftest import running
from tests.serving import eventually, metric

URL = "/v1/text/complete"
DIGEST = {"model": "digest", "max_tokens": 24}


async def complete(client, **body):
    response = await client.post(URL, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def texts(client, **body):
    return [choice["text"] for choice in (await complete(client, **body))["choices"]]


async def events(client, **body):
    """The data of each event of a stream, [DONE] and all."""
    response = await client.post(URL, json={**body, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.content.decode().split("\n\n")
    assert blocks.pop() == ""
    return [block.removeprefix("data: ") for block in blocks]


async def streamed(client, **body):
    """Choices put together from a stream, in the shape of the JSON answer."""
    *pieces, done = await events(client, **body)
    assert done == "[DONE]"
    choices = {}
    for data in map(json.loads, pieces):
        choice = choices.setdefault(data["index"], {"index": data["index"], "text": ""})
        assert "finish_reason" not in choice, "nothing comes after the end of a choice"
        text = choice["text"] + data.pop("text")
        choice |= data | {"text": text}
    return [choices[index] for index in sorted(choices)]


# what is said


async def test_nothing_is_enough(text_client):
    response = await text_client.post(URL, json={})
    answer = response.json()
    assert response.status_code == 200
    assert answer["model"].startswith("counting@")
    (choice,) = answer["choices"]
    assert choice["text"].startswith("ththeé\x00\x01\x02"), "the tokens after the end of text, then the first ones"
    assert choice["usage"] == {"prompt_tokens": 1, "completion_tokens": 127, "total_tokens": 128}, "as many as fit"
    assert response.headers["x-genserve-seed"] == str(choice["seed"])
    assert response.headers["x-genserve-model"] == answer["model"]
    assert response.headers["x-genserve-runtime"].startswith("cpu; float32; torch 2")
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


async def test_counting(text_client):
    answer = await complete(text_client, model="counting", prompt="a", max_tokens=5, seed=3)
    usage = {"prompt_tokens": 1, "completion_tokens": 5, "total_tokens": 6}
    assert answer["choices"] == [{"index": 0, "text": "bcdef", "finish_reason": "length", "seed": 3, "usage": usage}]
    assert answer["usage"] == usage


@pytest.mark.parametrize("prompt", ["naïve €", "日本語", "👩‍👩‍👧 é ", "\n\t\u0000"])
async def test_the_parrot_says_it_again(text_client, prompt):
    length = (await complete(text_client, model="parrot", prompt=prompt, max_tokens=1))["usage"]["prompt_tokens"]
    body = {"model": "parrot", "prompt": prompt, "max_tokens": 2 * length}
    assert await texts(text_client, **body) == [prompt * 2]
    *pieces, _ = await events(text_client, **body)
    assert "\ufffd" not in "".join(json.loads(piece)["text"] for piece in pieces)
    assert [choice["text"] for choice in await streamed(text_client, **body)] == [prompt * 2]


async def test_the_model_can_end_the_text(text_client):
    """One token in 260 is the end of text, and draws hit it sooner or later."""
    answer = await complete(text_client, **DIGEST | {"max_tokens": 60}, n=16, seed=1, temperature=3.0)
    ends = {choice["finish_reason"] for choice in answer["choices"]}
    assert ends == {"stop", "length"}
    for choice in answer["choices"]:
        assert (choice["usage"]["completion_tokens"] < 60) == (choice["finish_reason"] == "stop")


async def test_prompts_and_choices(text_client):
    answer = await complete(text_client, **DIGEST, prompt=["the one", "the other", ""], n=3, seed=100)
    assert [choice["index"] for choice in answer["choices"]] == list(range(9))
    assert [choice["seed"] for choice in answer["choices"]] == list(range(100, 109))
    assert len({choice["text"] for choice in answer["choices"]}) == 9
    prompt_tokens = [choice["usage"]["prompt_tokens"] for choice in answer["choices"][::3]]
    assert answer["usage"]["prompt_tokens"] == sum(prompt_tokens)
    assert prompt_tokens == [5, 5, 1]


async def test_each_choice_can_be_had_alone(text_client):
    prompts = ["the one", "the other", "€"]
    together = await texts(text_client, **DIGEST, prompt=prompts, n=3, seed=100)
    for index, text in enumerate(together):
        assert await texts(text_client, **DIGEST, prompt=prompts[index // 3], seed=100 + index) == [text]


async def test_a_drawn_seed_is_told_and_repeats(text_client):
    first, second = [await complete(text_client, **DIGEST, prompt="x", n=2) for _ in range(2)]
    assert first["choices"][0]["seed"] != second["choices"][0]["seed"]
    again = await complete(text_client, **DIGEST, prompt="x", n=2, seed=first["choices"][0]["seed"])
    assert again == first


async def test_temperature_0_knows_no_chance(text_client):
    said = {(await texts(text_client, **DIGEST, prompt="x", temperature=0))[0] for _ in range(3)}
    assert len(said) == 1
    assert said == {(await texts(text_client, **DIGEST, prompt="x", top_k=1, seed=9))[0]}


@pytest.mark.parametrize(
    "field",
    [
        {"temperature": 0.3},
        {"top_k": 2},
        {"top_p": 0.2},
        {"min_p": 0.5},
        {"repetition_penalty": 5},
        {"frequency_penalty": 2, "temperature": 0},
        {"presence_penalty": 2, "temperature": 0},
        {"logit_bias": {"97": 100}},
        {"seed": 2},
    ],
)
async def test_every_field_reaches_the_model(text_client, field):
    plain = {**DIGEST, "prompt": "x", "seed": 1}
    assert await texts(text_client, **plain | field) != await texts(text_client, **plain)


@pytest.mark.parametrize(
    ("stop", "text", "reason"),
    [
        ("e", "bcd", "stop"),
        (["zz", "fg", "de"], "bc", "stop"),
        ("b", "", "stop"),
        ("k", "bcdefghij", "stop"),
        ("kl", "bcdefghijk", "length"),
        (["x", "y", "z", "w"], "bcdefghijk", "length"),
        ([], "bcdefghijk", "length"),
        (None, "bcdefghijk", "length"),
    ],
)
async def test_stop(text_client, stop, text, reason):
    body = {"model": "counting", "prompt": "a", "max_tokens": 10, "stop": stop, "seed": 0}
    (choice,) = (await complete(text_client, **body))["choices"]
    assert (choice["text"], choice["finish_reason"]) == (text, reason)
    assert await streamed(text_client, **body) == [choice]


async def test_no_partial_stop_ever_leaks(text_client):
    body = {"model": "parrot", "prompt": "ab€", "max_tokens": 15, "stop": "€ab€a"}
    shown = ""
    for data in (await events(text_client, **body))[:-1]:
        shown += json.loads(data)["text"]
        assert "ab".startswith(shown)
    assert shown == "ab"


# limits


async def test_exactly_what_fits(text_client):
    answer = await complete(text_client, model="parrot", prompt="abc", max_tokens=125)
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 125, "total_tokens": 128}
    answer = await complete(text_client, model="parrot", prompt="x" * 127)
    assert answer["usage"]["completion_tokens"] == 1


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({"prompt": "abc", "max_tokens": 126}, 400, "invalid_field", "max_tokens"),
        ({"max_tokens": 0}, 400, "invalid_field", "max_tokens"),
        ({"max_tokens": 10**30}, 400, "invalid_field", "max_tokens"),
        ({"prompt": "x" * 128}, 400, "invalid_field", "prompt"),
        ({"prompt": "x" * 100_000}, 400, "invalid_field", "prompt"),
        ({"prompt": []}, 400, "invalid_field", "prompt"),
        ({"prompt": [1, 2]}, 400, "invalid_field", "prompt"),
        ({"prompt": 3}, 400, "invalid_field", "prompt"),
        ({"prompt": ["a"] * 65}, 400, "invalid_field", "prompt"),
        ({"prompt": ["a"] * 9, "n": 8}, 400, "invalid_field", "n"),
        ({"n": 0}, 400, "invalid_field", "n"),
        ({"n": 65}, 400, "invalid_field", "n"),
        ({"n": True}, 400, "invalid_field", "n"),
        ({"temperature": -0.1}, 400, "invalid_field", "temperature"),
        ({"temperature": 101}, 400, "invalid_field", "temperature"),
        ({"temperature": "1"}, 400, "invalid_field", "temperature"),
        ({"top_k": -1}, 400, "invalid_field", "top_k"),
        ({"top_k": 10**30}, 400, "invalid_field", "top_k"),
        ({"top_p": 0}, 400, "invalid_field", "top_p"),
        ({"top_p": 1.1}, 400, "invalid_field", "top_p"),
        ({"min_p": 1.1}, 400, "invalid_field", "min_p"),
        ({"repetition_penalty": 0}, 400, "invalid_field", "repetition_penalty"),
        ({"repetition_penalty": 1e-300}, 400, "invalid_field", "repetition_penalty"),
        ({"stop": ""}, 400, "invalid_field", "stop"),
        ({"stop": ["a"] * 5}, 400, "invalid_field", "stop"),
        ({"stop": "a" * 201}, 400, "invalid_field", "stop"),
        ({"seed": -1}, 400, "invalid_field", "seed"),
        ({"seed": 2**53}, 400, "invalid_field", "seed"),
        ({"seed": 2**53 - 1, "n": 2}, 400, "invalid_field", "seed"),
        ({"stream": "yes"}, 400, "invalid_field", "stream"),
        ({"frequency_penalty": 3}, 400, "invalid_field", "frequency_penalty"),
        ({"presence_penalty": -3}, 400, "invalid_field", "presence_penalty"),
        ({"logit_bias": {"a": 1}}, 400, "invalid_field", "logit_bias"),
        ({"logit_bias": {"1": 101}}, 400, "invalid_field", "logit_bias"),
        ({"stop_token_ids": [260]}, 400, "invalid_field", "stop_token_ids"),
        ({"stop_token_ids": [-1]}, 400, "invalid_field", "stop_token_ids"),
        ({"min_tokens": -1}, 400, "invalid_field", "min_tokens"),
        ({"min_tokens": 6, "max_tokens": 5}, 400, "invalid_field", "min_tokens"),
        ({"min_tokens": 1, "regex": "a"}, 400, "invalid_field", "min_tokens"),
        ({"ignore_eos": 1}, 400, "invalid_field", "ignore_eos"),
        ({"ignore_eos": True, "regex": "a"}, 400, "invalid_field", "ignore_eos"),
        ({"regex": "a", "response_format": {"type": "json_object"}}, 400, "invalid_field", "regex"),
        ({"response_format": {"type": "json_schema"}}, 400, "invalid_field", "response_format"),
        ({"max_length": 5}, 400, "unknown_field", "max_length"),
        ({"logprobs": 1}, 400, "unknown_field", "logprobs"),
        ({"echo": True}, 400, "unknown_field", "echo"),
        ({"model": "other"}, 404, "model_not_found", "model"),
        ({"model": "echo"}, 404, "model_not_found", "model"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_refused_is_refused_by_name_and_before_any_byte(text_client, body, status, code, field, stream):
    response = await text_client.post(URL, json={"stream": stream, **body})
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["code"], problem["field"]) == (code, field)
    assert problem["request_id"] == response.headers["x-request-id"]
    assert len(response.content) < 1000
    assert text_client.app.state.engine.in_flight == 0


@pytest.mark.parametrize(
    "extreme",
    [
        {"temperature": 1e-45},
        {"temperature": 100},
        {"top_k": 1_000_000},
        {"top_p": 1e-300},
        {"min_p": 1},
        {"repetition_penalty": 0.01},
        {"repetition_penalty": 10},
        {"seed": 2**53 - 1},
    ],
)
async def test_what_is_allowed_is_computed(text_client, extreme):
    assert (await complete(text_client, **DIGEST, prompt="abc", **extreme))["choices"][0]["finish_reason"]


async def test_a_special_token_in_the_prompt_is_text(text_client):
    prompt = f"a{fakes.END_OF_TEXT}b"
    answer = await complete(text_client, model="parrot", prompt=prompt, max_tokens=len(prompt))
    assert answer["choices"][0]["text"] == prompt


async def test_a_queue_that_is_full(text_settings, gate):
    async with running(text_settings(max_queue=64)) as client:
        held = asyncio.ensure_future(complete(client, prompt=fakes.GATE, model="digest", n=60, max_tokens=2))
        await eventually(lambda: client.app.state.engine.in_flight == 60)
        for stream in (False, True):
            refused = await client.post(URL, json={"n": 5, "stream": stream})
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["code"] == "overloaded"
        gate.unlink()
        assert len((await held)["choices"]) == 60
        assert len(await texts(client, n=5, max_tokens=1)) == 5


# streams


@pytest.mark.parametrize(
    "body",
    [
        {**DIGEST, "prompt": ["the one", "€"], "n": 3, "seed": 5},
        {**DIGEST, "prompt": "x", "seed": 5, "temperature": 2.0, "top_p": 0.9, "stop": ["a", "e", "\n"], "n": 8},
        {"model": "counting", "prompt": "a", "max_tokens": 1},
        {"model": "counting", "prompt": "a", "max_tokens": 8, "stop": "b"},
    ],
)
async def test_a_stream_adds_up_to_the_answer(text_client, body):
    body = {"seed": 0, **body}
    answer = await complete(text_client, **body)
    assert await streamed(text_client, **body) == answer["choices"]


async def test_a_stream_comes_in_pieces_that_say_something(text_client):
    response = await text_client.post(URL, json={"model": "counting", "prompt": "a", "max_tokens": 25, "stream": True})
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-genserve-model"].startswith("counting@")
    assert response.headers["x-genserve-seed"].isdecimal()
    pieces = [json.loads(line[6:]) for line in response.text.split("\n\n") if line.startswith("data: {")]
    assert len(pieces) >= 4
    assert all(piece["text"] or "finish_reason" in piece for piece in pieces)
    assert ["finish_reason" in piece for piece in pieces] == [False] * (len(pieces) - 1) + [True]


# failures


@pytest.mark.parametrize("prompt", [fakes.RAISE_PREFILL, fakes.RAISE_STEP, fakes.NAN, [fakes.NAN + "x" * 20]])
async def test_a_failure_of_the_network_is_this_request_s_alone(text_client, prompt):
    good = [complete(text_client, **DIGEST, prompt=f"good {i}", seed=i) for i in range(5)]
    bad_body = {**DIGEST, "prompt": prompt, "temperature": 0}  # greedy, so that no drawn end of text comes before
    bad, *answers = await asyncio.gather(text_client.post(URL, json=bad_body), *good)
    assert bad.status_code == 500
    assert bad.json()["code"] == "compute_failed"
    for i, answer in enumerate(answers):
        assert answer == await complete(text_client, **DIGEST, prompt=f"good {i}", seed=i)
    engine = text_client.app.state.engine
    assert engine.in_flight == 0
    assert metric((await text_client.get("/metrics")).text, "genserve_cancelled_total") == 0


async def test_a_failure_after_the_first_byte_is_an_event_and_the_end(text_client):
    *pieces, error = await events(text_client, model="counting", prompt=f"{fakes.RAISE_STEP}a", n=2)
    assert pieces, "something was said before"
    event, data = error.split("\n")
    assert event == "event: error"
    problem = json.loads(data.removeprefix("data: "))
    assert (problem["code"], problem["status"]) == ("compute_failed", 500)
    assert problem["request_id"]
    assert text_client.app.state.engine.in_flight == 0


async def test_one_bad_choice_frees_the_slots_of_the_others(text_client):
    response = await text_client.post(URL, json={**DIGEST, "prompt": ["x", fakes.RAISE_PREFILL], "max_tokens": 100})
    assert response.status_code == 500
    assert text_client.app.state.engine.in_flight == 0
    await eventually(lambda: slots_busy(text_client, "digest") == 0)


def slots_busy(client, model):
    return client.app.state.telemetry.registry.get_sample_value("genserve_slots_busy", {"model": model})


async def test_what_happened_is_counted(text_client):
    await complete(text_client, model="counting", prompt=["abc", "xyz"], max_tokens=20)
    await complete(text_client, model="counting", prompt="9bc", max_tokens=120, stop="f")
    text = (await text_client.get("/metrics")).text
    assert metric(text, "genserve_tokens_total", model="counting", kind="prompt") == 9
    assert 40 < metric(text, "genserve_tokens_total", model="counting", kind="completion") < 160
    assert metric(text, "genserve_time_to_first_token_seconds_count", model="counting") == 3
    assert metric(text, "genserve_inter_token_latency_seconds_count", model="counting") >= 3
    assert metric(text, "genserve_queue_duration_seconds_count", model="counting") == 3
    assert metric(text, "genserve_requests_total", route=URL, model="counting", code="200") == 2
    assert metric(text, "genserve_cancelled_total") == 0, "a stop string is no client that left"
    assert metric(text, "genserve_queue_depth") == 0
    await eventually(lambda: slots_busy(text_client, "counting") == 0)
