"""`POST /v1/completions` with the stock `openai` client, over the application in this process."""

import asyncio
import json
import math

import openai
import pytest

from app.schemas.completions import OpenAICompletion
from tests import fake_sequences as fakes
from tests.conftest import stock_client
from tests.serving import metric

URL = "/v1/completions"
NATIVE = "/v1/text/complete"


@pytest.fixture
async def stock(text_client):
    async with stock_client(text_client) as ai:
        yield ai


async def native(client, **body):
    return [choice["text"] for choice in (await client.post(NATIVE, json=body)).json()["choices"]]


async def streamed(stock, **body):
    """Choices by index, put together from a stream; the usage, if it came; all events."""
    events = [event async for event in await stock.completions.create(stream=True, **body)]
    texts, ends = {}, {}
    for event in events:
        for choice in event.choices:
            assert choice.index not in ends
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            if choice.finish_reason is not None:
                ends[choice.index] = choice.finish_reason
    return [(texts[index], ends[index]) for index in sorted(texts)], events


async def test_create(text_client, stock):
    answer = await stock.completions.create(model="digest", prompt="the one", seed=5)
    assert answer.id.startswith("cmpl-")
    assert (answer.object, answer.model) == ("text_completion", "digest")
    assert answer.created > 1_600_000_000
    (choice,) = answer.choices
    assert (choice.index, choice.logprobs) == (0, None)
    assert [choice.text] == await native(text_client, model="digest", prompt="the one", seed=5, max_tokens=16)
    assert answer.usage.completion_tokens <= 16
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens == 5


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("ab", ["abab"]),
        (["ab", "cd"], ["abab", "cdcd"]),
        ([97, 98], ["abab"]),
        ([[97, 98], [99, 100]], ["abab", "cdcd"]),
        ([fakes.ACUTE], ["éééé"]),
        ([[fakes.ACUTE, 97]], ["éaéa"]),
    ],
)
async def test_every_kind_of_prompt(stock, prompt, said):
    answer = await stock.completions.create(model="parrot", prompt=prompt, max_tokens=4)
    assert [choice.text for choice in answer.choices] == said


@pytest.mark.parametrize(
    "body", [{}, {"prompt": None}, {"prompt": ""}, dict.fromkeys(["max_tokens", "n", "seed", "stop"])]
)
async def test_no_prompt_begins_a_text(text_client, body):
    answer = (await text_client.post(URL, json={"model": "counting", **body})).json()
    assert answer["choices"][0]["text"].startswith("ththeé")
    assert answer["usage"] == {"prompt_tokens": 1, "completion_tokens": 16, "total_tokens": 17}


async def test_choices_and_their_seeds(text_client, stock):
    answer = await stock.completions.create(model="digest", prompt=["x", "y"], n=3, seed=50)
    assert [choice.index for choice in answer.choices] == list(range(6))
    for index, choice in enumerate(answer.choices):
        alone = await stock.completions.create(model="digest", prompt="xy"[index // 3], seed=50 + index)
        assert alone.choices[0].text == choice.text
    assert answer.usage.prompt_tokens == 2


async def test_temperature_0_and_top_p(text_client, stock):
    said = {
        (await stock.completions.create(model="digest", prompt="x", temperature=0, seed=seed)).choices[0].text
        for seed in (1, 2)
    }
    assert len(said) == 1
    answer = await stock.completions.create(model="digest", prompt="x", top_p=0.3, seed=4)
    assert [answer.choices[0].text] == await native(
        text_client, model="digest", prompt="x", top_p=0.3, seed=4, max_tokens=16
    )


@pytest.mark.parametrize(
    ("stop", "text", "reason"), [("e", "bcd", "stop"), (["x", "fg"], "bcde", "stop"), (None, "bcdefg", "length")]
)
async def test_stop(stock, stop, text, reason):
    answer = await stock.completions.create(model="counting", prompt="a", max_tokens=6, stop=stop)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (text, reason)


async def test_logit_bias_forces_and_forbids(stock):
    forced = await stock.completions.create(model="digest", prompt="x", logit_bias={str(ord("z")): 100}, max_tokens=5)
    assert forced.choices[0].text == "zzzzz"
    ended = await stock.completions.create(model="counting", prompt="a", logit_bias={str(fakes.EOS): 100})
    assert (ended.choices[0].text, ended.choices[0].finish_reason) == ("", "stop")
    assert ended.usage.completion_tokens == 0
    barred = await stock.completions.create(model="counting", prompt="a", logit_bias={"98": -100}, max_tokens=1)
    assert barred.choices[0].text != "b"
    after = await stock.completions.create(model="counting", prompt="a", max_tokens=2)
    assert after.choices[0].text == "bc", "the next in the slot knows nothing of it"


async def test_fields_beyond_openai_s(stock):
    body = {"model": "digest", "prompt": "x", "seed": 4}
    plain = (await stock.completions.create(**body)).choices[0].text
    for extra in ({"top_k": 1}, {"min_p": 0.9}, {"repetition_penalty": 5.0}):
        assert (await stock.completions.create(**body, extra_body=extra)).choices[0].text != plain
    same = {
        "top_k": -1,
        "min_p": 0,
        "repetition_penalty": 1,
        "stop_token_ids": [],
        "min_tokens": 0,
        "ignore_eos": False,
    }
    assert (await stock.completions.create(**body, extra_body=same)).choices[0].text == plain


async def test_tokens_that_end_a_text(stock):
    stopped = await stock.completions.create(model="counting", prompt="a", extra_body={"stop_token_ids": [100, 101]})
    assert (stopped.choices[0].text, stopped.choices[0].finish_reason) == ("bc", "stop")
    body = {"model": "counting", "prompt": [fakes.EOS - 2], "max_tokens": 4}
    ended = await stock.completions.create(**body)
    assert (ended.choices[0].finish_reason, ended.usage.completion_tokens) == ("stop", 1)
    on = await stock.completions.create(**body, extra_body={"ignore_eos": True})
    assert (on.choices[0].finish_reason, on.usage.completion_tokens) == ("length", 4)
    assert on.choices[0].text.endswith("ththe"), "and the end of text itself is no text"


@pytest.mark.parametrize("penalty", [{"frequency_penalty": 2}, {"presence_penalty": 2}, {"frequency_penalty": -2}])
async def test_penalties_change_what_is_said_again(stock, penalty):
    body = {"model": "digest", "prompt": "x", "max_tokens": 60, "temperature": 0}
    plain = await stock.completions.create(**body)
    changed = await stock.completions.create(**body, **penalty)
    assert changed.choices[0].text != plain.choices[0].text
    assert changed.choices[0].text[:1] == plain.choices[0].text[:1], "nothing was generated before the first token"


async def test_logprobs(stock):
    answer = await stock.completions.create(model="counting", prompt="ab", max_tokens=3, logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs.tokens == ["c", "d", "e"]
    assert logprobs.text_offset == [2, 3, 4]
    assert logprobs.token_logprobs == pytest.approx([0, 0, 0], abs=1e-6)
    assert [set(top) >= {token} and len(top) for top, token in zip(logprobs.top_logprobs, "cde", strict=True)] == [
        2
    ] * 3
    assert [top[token] for top, token in zip(logprobs.top_logprobs, "cde", strict=True)] == logprobs.token_logprobs


async def test_logprobs_0_names_the_chosen_token_alone(stock):
    answer = await stock.completions.create(model="digest", prompt="ab", max_tokens=3, logprobs=0, seed=1)
    assert answer.choices[0].logprobs.top_logprobs == [{}, {}, {}]
    assert all(value < 0 for value in answer.choices[0].logprobs.token_logprobs)


async def test_logprobs_change_nothing_else(stock):
    body = {"model": "digest", "prompt": "ab", "seed": 1, "n": 2}
    plain, scored = await stock.completions.create(**body), await stock.completions.create(**body, logprobs=5)
    assert [choice.text for choice in plain.choices] == [choice.text for choice in scored.choices]


async def test_the_share_of_a_token_is_its_log_probability(stock):
    """Over many seeds, the first token is drawn as often as its log probability says."""
    answer = await stock.completions.create(model="digest", prompt="ab", max_tokens=1, logprobs=5, n=64, seed=0)
    top = answer.choices[0].logprobs.top_logprobs[0]
    assert all(choice.logprobs.top_logprobs[0] == top for choice in answer.choices)
    likely = {token for token, value in top.items() if math.exp(value) > 0.01}
    drawn = sum(choice.logprobs.tokens[0] in likely for choice in answer.choices)
    share = sum(math.exp(top[token]) for token in likely)
    assert abs(drawn - 64 * share) < 5 * math.sqrt(64 * share * (1 - share)) + 1


async def test_echo(stock):
    answer = await stock.completions.create(model="counting", prompt=["ab", "é "], max_tokens=2, echo=True)
    assert [choice.text for choice in answer.choices] == ["abcd", 'é !"']


async def test_echo_with_logprobs_scores_the_prompt(stock):
    answer = await stock.completions.create(model="counting", prompt="abd", max_tokens=2, echo=True, logprobs=1)
    (choice,) = answer.choices
    assert choice.text == "abdef"
    assert choice.logprobs.tokens == list("abdef")
    assert choice.logprobs.text_offset == [0, 1, 2, 3, 4]
    first, *others = choice.logprobs.token_logprobs
    assert first is None
    assert others == pytest.approx([0, -50, 0, 0], abs=1e-3), "after b comes c, not d"
    assert choice.logprobs.top_logprobs[2] == {"c": pytest.approx(0, abs=1e-6)}
    assert answer.usage.completion_tokens == 2


async def test_scoring_a_text_without_adding_to_it(stock):
    answer = await stock.completions.create(model="counting", prompt="abc", max_tokens=0, echo=True, logprobs=0)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason, len(choice.logprobs.tokens)) == ("abc", "length", 3)
    assert answer.usage.completion_tokens == 0
    one = await stock.completions.create(model="counting", prompt="a", max_tokens=0, echo=True, logprobs=0)
    assert (one.choices[0].text, one.choices[0].logprobs.token_logprobs) == ("a", [None])
    plain = await stock.completions.create(model="counting", prompt="abc", max_tokens=0, echo=True)
    assert (plain.choices[0].text, plain.choices[0].logprobs) == ("abc", None)


async def test_echo_says_the_same_after_the_prompt(stock):
    body = {"model": "digest", "prompt": "the one", "seed": 3}
    plain = await stock.completions.create(**body)
    for extra in ({"echo": True}, {"echo": True, "logprobs": 2}):
        assert (await stock.completions.create(**body, **extra)).choices[0].text == "the one" + plain.choices[0].text


# streams


@pytest.mark.parametrize(
    "body",
    [
        {"model": "digest", "prompt": ["the one", "€"], "n": 3, "seed": 5, "max_tokens": 30},
        {"model": "digest", "prompt": "x", "n": 8, "seed": 5, "stop": ["a", "e"], "temperature": 1.5},
        {"model": "parrot", "prompt": "日本 👩‍👩‍👧", "max_tokens": 60},
        {"model": "counting", "prompt": "a", "echo": True, "max_tokens": 0},
        {"model": "counting", "prompt": "abc", "echo": True, "logprobs": 1},
    ],
)
async def test_a_stream_adds_up_to_the_answer(stock, body):
    answer = await stock.completions.create(**body)
    choices, events = await streamed(stock, **body)
    assert choices == [(choice.text, choice.finish_reason) for choice in answer.choices]
    assert len({(event.id, event.system_fingerprint) for event in events}) == 1
    assert all(event.usage is None for event in events)
    if "logprobs" in body:
        tokens = [token for event in events for c in event.choices if c.logprobs for token in c.logprobs.tokens]
        assert tokens == answer.choices[0].logprobs.tokens


async def test_a_stream_with_usage(stock):
    body = {"model": "digest", "prompt": ["the one", "x"], "n": 2, "seed": 1}
    answer = await stock.completions.create(**body)
    _, events = await streamed(stock, **body, stream_options={"include_usage": True})
    assert events[-1].choices == []
    assert events[-1].usage == answer.usage
    assert all(event.usage is None for event in events[:-1])


@pytest.mark.parametrize("usage", [{}, {"stream_options": {"include_usage": True}}])
async def test_answers_and_events_are_as_documented(text_client, usage):
    body = {"model": "counting", "prompt": "a", "n": 2, "logprobs": 1, "echo": True}
    answer = (await text_client.post(URL, json=body)).json()
    OpenAICompletion.model_validate(answer, strict=True, extra="forbid")
    response = await text_client.post(URL, json={**body, "stream": True, **usage})
    *events, done = [block.removeprefix("data: ") for block in response.text.split("\n\n")[:-1]]
    assert done == "[DONE]"
    data = [json.loads(event) for event in events]
    for event in data:
        OpenAICompletion.model_validate(event, strict=True, extra="forbid")
    if usage:
        assert [event["usage"] for event in data] == [None] * (len(data) - 1) + [answer["usage"]]
        assert data[-1]["choices"] == []
    else:
        assert not any("usage" in event for event in data)


async def test_the_stream_s_last_word(text_client):
    response = await text_client.post(URL, json={"model": "counting", "prompt": "a", "stream": True})
    assert response.content.endswith(b"\n\ndata: [DONE]\n\n")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-genserve-seed"].isdecimal()


async def test_a_failure_in_a_stream_reaches_the_client_as_an_error(text_client, stock):
    events = await stock.completions.create(model="counting", prompt=f"{fakes.RAISE_STEP}a", max_tokens=40, stream=True)
    assert (await anext(events)).choices[0].text == "b"
    with pytest.raises(openai.APIError, match="the model raised ValueError") as caught:
        [event async for event in events]
    assert caught.value.body["code"] == "compute_failed"
    assert text_client.app.state.engine.in_flight == 0


async def test_a_failure_without_a_stream(stock):
    with pytest.raises(openai.InternalServerError) as caught:
        await stock.completions.create(model="counting", prompt=fakes.NAN, max_tokens=40)
    assert caught.value.body["code"] == "compute_failed"


async def test_many_at_once(text_client, stock):
    bodies = [{"model": "digest", "prompt": f"{i}", "seed": i, "max_tokens": 10 + i} for i in range(20)]
    together = await asyncio.gather(*(stock.completions.create(**body) for body in bodies))
    for body, answer in zip(bodies, together, strict=True):
        assert (await stock.completions.create(**body)).choices == answer.choices
    assert metric((await text_client.get("/metrics")).text, "genserve_requests_total", route=URL, code="200") == 40


# refusals


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"n": 0}, "n"),
        ({"n": 65}, "n"),
        ({"prompt": ["a"] * 33, "n": 2}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 128}, "max_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"logprobs": 6}, "logprobs"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"260": 1}}, "logit_bias"),
        ({"logit_bias": {"9" * 30: 1}}, "logit_bias"),
        ({"seed": -1}, "seed"),
        ({"prompt": [260]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**30]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": "x" * 128}, "prompt"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"extra_body": {"top_k": -2}}, "top_k"),
        ({"extra_body": {"typical_p": 0.5}}, "typical_p"),
        ({"extra_body": {"min_tokens": 17}}, "min_tokens"),
        ({"extra_body": {"min_p": 1.1}}, "min_p"),
        ({"extra_body": {"repetition_penalty": 0}}, "repetition_penalty"),
        ({"extra_body": {"stop_token_ids": [260]}}, "stop_token_ids"),
        ({"extra_body": {"ignore_eos": 1}}, "ignore_eos"),
        ({"extra_body": {"regex": "a", "response_format": {"type": "json_object"}}}, "regex"),
        ({"extra_body": {"stream": True, "stream_options": {"x": 1}}}, "stream_options.x"),
    ],
)
async def test_what_can_t_be_done_is_refused_by_name(text_client, stock, wrong, param):
    with pytest.raises(openai.BadRequestError) as caught:
        await stock.completions.create(**{"model": "digest", "prompt": "x", **wrong})
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert caught.value.code in ("invalid_field", "unknown_field")
    assert text_client.app.state.engine.in_flight == 0


async def test_a_name_in_a_refusal_is_short(text_client):
    response = await text_client.post(URL, json={"model": "digest", "logit_bias": {"x" * 100_000: 1000}})
    assert response.status_code == 400
    assert len(response.content) < 2000


async def test_a_model_that_is_not_there(stock):
    for name in ("other", "echo"):
        with pytest.raises(openai.NotFoundError) as caught:
            await stock.completions.create(model=name, prompt="x")
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    "neutral",
    [
        {"best_of": 1, "suffix": "", "user": "me", "n": 1, "echo": False, "logit_bias": {}, "presence_penalty": 0},
        dict.fromkeys(["best_of", "suffix", "user", "n", "echo", "logit_bias", "logprobs", "stream", "stream_options"]),
    ],
)
async def test_neutral_fields_are_accepted(text_client, neutral):
    body = {"model": "counting", "prompt": "a", "max_tokens": 2, **neutral}
    response = await text_client.post(URL, json=body)
    assert response.status_code == 200, response.text
    assert response.json()["choices"] == [{"index": 0, "text": "bc", "logprobs": None, "finish_reason": "length"}]


async def test_bad_bodies_have_openai_s_shape(text_client):
    for body in ("", "[]", "{", '{"prompt": tru}', "[" * 10_000):
        response = await text_client.post(URL, content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 400
        assert set(json.loads(response.content)) == {"error"}
