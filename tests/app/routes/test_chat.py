"""`POST /v1/chat/completions` with the stock `openai` client, over the application in this process."""

import dataclasses
import json

import openai
import pytest

from app.schemas.chat import OpenAIChatChunk, OpenAIChatCompletion
from tests import fake_sequences as fakes
from tests.conftest import stock_client

URL = "/v1/chat/completions"
TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}{{ ' ' }}"
    "{% if m.name %}{{ raise_exception(m.name ~ ' is not welcome') }}{% endif %}{% endfor %}"
    "{{ 'a' if add_generation_prompt }}"
)
HI = [{"role": "user", "content": "hi"}]
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


def of_schema(**fields):
    return {"response_format": {"type": "json_schema", "json_schema": fields}}


def teach(client, folder, template=TEMPLATE):
    """Give the models "counting", "digest" and "parrot" a chat template, as a weights folder may have it."""
    path = folder / "chat_template.jinja"
    path.write_text(template)
    models = client.app.state.engine.models
    for name in ("counting", "digest", "parrot"):
        models[name] = dataclasses.replace(models[name], chat_template=str(path))


@pytest.fixture
def chat_client(text_client, tmp_path):
    teach(text_client, tmp_path)
    return text_client


@pytest.fixture
async def stock(chat_client):
    async with stock_client(chat_client) as ai:
        yield ai.chat.completions


async def streamed(stock, **body):
    """Choices put together from a stream as (text, reason); all events."""
    events = [event async for event in await stock.create(stream=True, **body)]
    texts, ends = {}, {}
    for event in events:
        for choice in event.choices:
            assert choice.index not in ends, "nothing comes after the end of a choice"
            if choice.index not in texts:
                assert (choice.delta.role, choice.delta.content) == ("assistant", ""), "first of all, the role"
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.finish_reason is not None:
                ends[choice.index] = choice.finish_reason
    return [(texts[index], ends[index]) for index in sorted(texts)], events


async def raw_events(client, **body):
    response = await client.post(URL, json={"model": "counting", "messages": HI, **body, "stream": True})
    assert response.status_code == 200, response.text
    return [block.removeprefix("data: ") for block in response.text.split("\n\n")[:-1]]


# answers


async def test_create(chat_client, stock):
    answer = await stock.create(model="counting", messages=HI, max_tokens=3, seed=1)
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", "counting")
    assert answer.created > 1_600_000_000
    assert answer.system_fingerprint.startswith("fp_")
    (choice,) = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert (choice.message.role, choice.message.content) == ("assistant", "bcd")
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": len("u:hi a"), "completion_tokens": 3, "total_tokens": 9
    }  # fmt: skip


async def test_an_answer_is_as_documented(chat_client):
    response = await chat_client.post(URL, json={"messages": HI, "logprobs": True, "top_logprobs": 2, "n": 2})
    assert response.status_code == 200, response.text
    OpenAIChatCompletion.model_validate(response.json(), strict=True, extra="forbid")
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-genserve-seed"].isdecimal()
    assert response.headers["x-genserve-model"].startswith("counting@")


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (HI, "u:hi a"),
        ([{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "é"}]}], "u:hé a"),
        ([{"role": "system", "content": "x"}, *HI], "s:x u:hi a"),
        ([{"role": "developer", "content": "x"}, *HI], "s:x u:hi a"),
        ([*HI, {"role": "assistant", "content": "yo"}, {"role": "user", "content": ""}], "u:hi a:yo u: a"),
    ],
)
async def test_what_the_model_reads(stock, messages, said):
    length = len(said.encode()) - ("é" in said)
    answer = await stock.create(model="parrot", messages=messages, max_tokens=length)
    assert answer.choices[0].message.content == said
    assert answer.usage.prompt_tokens == length


async def test_an_answer_can_be_said_again_as_it_came(stock):
    answer = await stock.create(model="counting", messages=HI, max_tokens=2)
    message = answer.choices[0].message
    for again in (message, message.model_dump(), message.to_dict(), {**message.to_dict(), "tool_calls": []}):
        later = await stock.create(model="parrot", messages=[*HI, again, *HI], max_tokens=16)
        assert later.choices[0].message.content == "u:hi a:bc u:hi a"


async def test_special_tokens_in_a_message_are_text(stock):
    content = f"x{fakes.END_OF_TEXT}y"
    answer = await stock.create(model="parrot", messages=[{"role": "user", "content": content}], max_tokens=19)
    assert answer.choices[0].message.content == f"u:{content} a"


async def test_choices_have_seeds_of_their_own(stock):
    body = {"model": "digest", "messages": HI, "max_tokens": 12}
    answer = await stock.create(**body, n=3, seed=50)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for index, choice in enumerate(answer.choices):
        alone = await stock.create(**body, seed=50 + index)
        assert alone.choices[0].message.content == choice.message.content
        assert alone.system_fingerprint == answer.system_fingerprint
    assert len({choice.message.content for choice in answer.choices}) == 3


async def test_how_much_is_said_when_nobody_says(stock):
    answer = await stock.create(model="parrot", messages=HI)
    assert answer.usage.total_tokens == 128, "what fits, for a model of short texts"


@pytest.mark.parametrize("limit", [{"max_tokens": 4}, {"max_completion_tokens": 4}])
async def test_both_names_of_the_limit(stock, limit):
    assert (await stock.create(model="counting", messages=HI, **limit)).choices[0].message.content == "bcde"
    both = {"max_tokens": 4, "max_completion_tokens": 4}
    assert (await stock.create(model="counting", messages=HI, **both)).choices[0].message.content == "bcde"


async def test_a_stop_string(stock):
    answer = await stock.create(model="counting", messages=HI, stop=["zz", "e"])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("bcd", "stop")


async def test_fields_beyond_openai_s(stock):
    body = {"model": "digest", "messages": HI, "max_tokens": 20, "seed": 3}
    plain = (await stock.create(**body)).choices[0].message.content
    for extra in ({"top_k": 1}, {"min_p": 0.9}, {"repetition_penalty": 5.0}):
        assert (await stock.create(**body, extra_body=extra)).choices[0].message.content != plain
    same = {"top_k": -1, "min_p": 0, "repetition_penalty": 1, "stop_token_ids": [], "min_tokens": 0}
    assert (await stock.create(**body, extra_body=same)).choices[0].message.content == plain
    ended = await stock.create(model="counting", messages=HI, extra_body={"stop_token_ids": [ord("d")]})
    assert (ended.choices[0].message.content, ended.choices[0].finish_reason) == ("bc", "stop")


# log probabilities


async def test_logprobs(stock):
    body = {"model": "counting", "messages": HI, "max_tokens": 2}
    answer = await stock.create(**body, logprobs=True, top_logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs.refusal is None
    first, second = logprobs.content
    assert (first.token, first.bytes, second.token) == ("b", [98], "c")
    assert first.logprob == pytest.approx(0, abs=1e-6)
    assert [len(token.top_logprobs) for token in logprobs.content] == [2, 2]
    assert (first.top_logprobs[0].token, first.top_logprobs[0].bytes) == ("b", [98])
    assert first.top_logprobs[0].logprob == first.logprob
    alone = (await stock.create(**body, logprobs=True)).choices[0].logprobs.content
    assert [(token.token, token.top_logprobs) for token in alone] == [("b", []), ("c", [])]


async def test_bytes_of_parts_of_characters(stock):
    messages = [{"role": "user", "content": "€"}]
    answer = await stock.create(model="parrot", messages=messages, max_tokens=7, logprobs=True)
    content = answer.choices[0].logprobs.content
    assert [token.token for token in content] == ["u", ":", "bytes:\\xe2", "bytes:\\x82", "bytes:\\xac", " ", "a"]
    assert bytes(byte for token in content for byte in token.bytes).decode() == "u:€ a"


# streams


@pytest.mark.parametrize(
    "body",
    [
        {"model": "digest", "messages": HI, "n": 3, "seed": 5, "max_tokens": 30},
        {
            "model": "digest",
            "messages": HI,
            "n": 8,
            "seed": 5,
            "stop": ["a", "e"],
            "temperature": 1.5,
            "max_tokens": 40,
        },
        {"model": "parrot", "messages": [{"role": "user", "content": "日本 👩‍👩‍👧"}], "max_tokens": 60},
        {"model": "counting", "messages": HI, "max_tokens": 3, "logprobs": True, "top_logprobs": 1},
        {"model": "counting", "messages": HI, "stop": "b"},
    ],
)
async def test_a_stream_adds_up_to_the_answer(stock, body):
    answer = await stock.create(**body)
    choices, events = await streamed(stock, **body)
    assert choices == [(choice.message.content, choice.finish_reason) for choice in answer.choices]
    assert len({(event.id, event.created, event.system_fingerprint) for event in events}) == 1
    assert {event.object for event in events} == {"chat.completion.chunk"}
    if "logprobs" in body:
        scored = [token for event in events for c in event.choices if c.logprobs for token in c.logprobs.content]
        assert scored == answer.choices[0].logprobs.content


@pytest.mark.parametrize("usage", [{}, {"stream_options": {"include_usage": True}}, {"stream_options": None}])
async def test_events_are_as_documented(chat_client, usage):
    *events, done = await raw_events(chat_client, n=2, logprobs=True, top_logprobs=1, **usage)
    assert done == "[DONE]"
    data = [json.loads(event) for event in events]
    for event in data:
        OpenAIChatChunk.model_validate(event, strict=True, extra="forbid")
    if usage.get("stream_options"):
        assert [event["usage"] for event in data[:-1]] == [None] * (len(data) - 1)
        assert data[-1]["choices"] == []
        assert data[-1]["usage"]["completion_tokens"] == 2 * (128 - len("u:hi a"))
    else:
        assert not any("usage" in event for event in data)


async def test_a_stream_with_the_client_s_own_accumulation(stock):
    async with stock.stream(model="counting", messages=HI, stop="g") as events:
        said = [event.delta async for event in events if event.type == "content.delta"]
        whole = await events.get_final_completion()
    assert "".join(said) == whole.choices[0].message.content == "bcdef"
    assert whole.choices[0].finish_reason == "stop"


async def test_one_tick_is_one_event(chat_client):
    """As many tokens as a tick gives, in one event, however many they are."""
    *events, _ = await raw_events(chat_client, max_tokens=100)
    said = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events]
    assert len(said) < 60
    assert len("".join(said)) > 90


async def test_a_failure_in_a_stream(chat_client, stock):
    teach(chat_client, chat_client.app.state.settings.weights.parent, "{{ messages[0].content }}a")
    chat_client.app.state.completer._templates.clear()
    messages = [{"role": "user", "content": fakes.RAISE_STEP}]
    events = await stock.create(model="counting", messages=messages, max_tokens=40, stream=True)
    assert (await anext(events)).choices[0].delta.role == "assistant"
    with pytest.raises(openai.APIError, match="the model raised ValueError") as caught:
        [event async for event in events]
    assert caught.value.body["code"] == "compute_failed"
    assert chat_client.app.state.engine.in_flight == 0


# refusals


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages"),
        ({"messages": HI * 1025}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.content"),
        ({"messages": [{"content": "x"}]}, "messages.role"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "y"}]}, "messages.role"),
        ({"messages": [{"role": "function", "content": "x", "name": "y"}]}, "messages.role"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.content"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages.content"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages.content"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}, "messages.content"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "messages.tool_calls"),
        ({"messages": [{"role": "assistant", "content": "x", "audio": {"id": "x"}}]}, "messages.audio"),
        ({"messages": [{"role": "user", "content": "x", "mood": 1}]}, "messages.0.mood"),
        ({"messages": [{"role": "user", "content": "x", "name": "Ann"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 128}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 100_000}]}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 128}, "max_tokens"),
        ({"max_completion_tokens": 128}, "max_completion_tokens"),
        ({"max_completion_tokens": 1, "max_tokens": 2}, "max_completion_tokens"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 1}, "logprobs"),
        ({"n": 65}, "n"),
        ({"temperature": 2.1}, "temperature"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"top_k": -2}, "top_k"),
        ({"stop_token_ids": [260]}, "stop_token_ids"),
        ({"stop_token_ids": [1] * 65}, "stop_token_ids"),
        ({"min_tokens": 200}, "min_tokens"),
        ({"min_tokens": 1, "regex": "a"}, "min_tokens"),
        ({"ignore_eos": True, "response_format": {"type": "json_object"}}, "ignore_eos"),
        ({"regex": "a", "response_format": {"type": "json_object"}}, "regex"),
        ({"regex": ""}, "regex"),
        ({"regex": "a" * 4097}, "regex"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "text", "json_schema": {"name": "x"}}}, "response_format"),
        (of_schema(), "response_format.json_schema.name"),
        (of_schema(name="a b"), "response_format.json_schema.name"),
        (of_schema(name="a", schema={"x": "y" * 65536}), "response_format"),
        (of_schema(name="a", schema=[]), "response_format.json_schema.schema"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"functions": [{}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"prediction": {"type": "content"}}, "prediction"),
        ({"web_search_options": {"x": 1}}, "web_search_options"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"verbosity": "low"}, "verbosity"),
        ({"store": True}, "store"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"echo": True}, "echo"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
    ],
)
async def test_what_can_t_be_done_is_refused_by_name(chat_client, wrong, param):
    response = await chat_client.post(URL, json={"model": "digest", "messages": HI, **wrong})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert error["code"] in ("invalid_field", "unknown_field")
    assert response.headers["x-should-retry"] == "false"
    assert len(response.content) < 1000
    assert chat_client.app.state.engine.in_flight == 0


@pytest.mark.parametrize(
    "neutral",
    [
        {"tools": [], "tool_choice": "none", "functions": [], "function_call": "none", "modalities": ["text"]},
        {"store": False, "service_tier": "auto", "parallel_tool_calls": True, "reasoning_effort": "none"},
        {
            "user": "me",
            "metadata": {"a": "b"},
            "safety_identifier": "x",
            "prompt_cache_key": "y",
            "verbosity": "medium",
        },
        {"response_format": {"type": "text"}, "logprobs": False, "n": 1, "logit_bias": {}, "service_tier": "default"},
        dict.fromkeys(
            ["tools", "tool_choice", "audio", "modalities", "prediction", "store", "metadata", "stop", "regex"]
        ),
        dict.fromkeys(["max_tokens", "logprobs", "top_logprobs", "response_format", "seed", "stream_options", "top_k"]),
    ],
)
async def test_neutral_fields_are_accepted(chat_client, neutral):
    body = {"model": "counting", "messages": HI, "max_completion_tokens": 2, **neutral}
    response = await chat_client.post(URL, json=body)
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == "bc"


async def test_a_model_that_does_not_chat(text_client):
    response = await text_client.post(URL, json={"model": "digest", "messages": HI})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["message"]) == (
        "model",
        "model: digest has no chat template; it completes texts only",
    )


async def test_a_model_that_is_not_there(stock):
    for name in ("other", "echo"):
        with pytest.raises(openai.NotFoundError) as caught:
            await stock.create(model=name, messages=HI)
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
