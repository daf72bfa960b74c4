"""Structured text from outside, on all three routes: what is said fits, what can't be read is refused by name."""

import json
import re

import pytest

from app.worker import grammars
from tests.app.routes.test_chat import HI, teach
from tests.conftest import running

NATIVE, COMPLETIONS, CHAT = "/v1/text/complete", "/v1/completions", "/v1/chat/completions"
ROUTES = (NATIVE, COMPLETIONS, CHAT)
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 99}, "kind": {"enum": ["é", "b"]}},
    "required": ["x", "kind"],
    "additionalProperties": False,
}


def of_schema(schema):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "point", "schema": schema}}}


@pytest.fixture
def client(text_client, tmp_path):
    teach(text_client, tmp_path)
    return text_client


async def ask(client, route, **body):
    prompt = {"messages": HI} if route == CHAT else {"prompt": "hi"}
    return await client.post(route, json={"model": "digest", "seed": 3, "max_tokens": 100, **prompt, **body})


def said(response):
    """The texts and ends of an answer, or of a stream."""
    assert response.status_code == 200, response.text
    if not response.headers["content-type"].startswith("text/event-stream"):
        choices = response.json()["choices"]
        texts = [choice.get("text", choice.get("message", {}).get("content")) for choice in choices]
        return [(text, choice["finish_reason"]) for text, choice in zip(texts, choices, strict=True)]
    found = {}
    for block in response.text.split("\n\n")[:-2]:
        event = json.loads(block.removeprefix("data: "))
        for choice in event.get("choices", [event]):
            text, end = found.get(choice["index"], ("", None))
            more = choice.get("text", choice.get("delta", {}).get("content")) or ""
            found[choice["index"]] = text + more, choice.get("finish_reason") or end
    return [found[index] for index in sorted(found)]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_whole_text_matches(client, route, stream):
    plain = said(await ask(client, route, stream=stream))[0][0]
    pattern = "(the|[a-c]){3,5}é\\."
    assert not re.fullmatch(pattern, plain)
    for text, end in said(await ask(client, route, regex=pattern, n=4, stream=stream)):
        assert re.fullmatch(pattern, text), text
        assert end == "stop"


@pytest.mark.parametrize("route", ROUTES)
async def test_json_of_a_schema(client, route):
    for text, end in said(await ask(client, route, **of_schema(POINT), n=4)):
        value = json.loads(text)
        assert value.keys() == {"x", "kind"}
        assert value["x"] in range(100)
        assert value["kind"] in ("é", "b")
        assert end == "stop"


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("wanted", [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "any"}}])
async def test_any_object(client, route, wanted):
    """With a bias to the brace that ends it, for a network that knows no JSON does not get there."""
    ((text, _),) = said(await ask(client, route, response_format=wanted, logit_bias={"125": 100}))
    assert json.loads(text) == {}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
async def test_where_too_many_are_compiled_it_is_no_fault_of_the_request(
    text_settings, tmp_path, monkeypatch, route, stream
):
    monkeypatch.setattr(grammars, "MAX_WAITING", 0)
    async with running(text_settings()) as client:
        teach(client, tmp_path)
        response = await ask(client, route, regex="yes|no", n=3, stream=stream)
        assert response.status_code == 429, response.text
        problem = response.json()
        assert problem.get("error", problem)["code"] == "overloaded"
        assert "too many are waiting" in response.text
        assert int(response.headers["Retry-After"]) >= 1
        assert response.headers.get("x-should-retry", "true") == "true"
        assert client.app.state.engine.in_flight == 0


async def test_what_is_cut_short_is_a_beginning(client):
    ((text, end),) = said(await ask(client, COMPLETIONS, regex="a{50}", max_tokens=7))
    assert (text, end) == ("aaaaaaa", "length")


async def test_an_echoed_prompt_is_no_part_of_it(client):
    response = await ask(client, COMPLETIONS, regex="[0-9]{3}", echo=True, logprobs=1)
    ((text, end),) = said(response)
    assert re.fullmatch("hi[0-9]{3}", text)
    assert end == "stop"
    assert len(response.json()["choices"][0]["logprobs"]["tokens"]) == 5


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"regex": "(a"}, "regex"),
        (of_schema({"type": "nonsense"}), "response_format"),
        (of_schema({"$ref": "#/nowhere"}), "response_format"),
    ],
)
async def test_what_the_worker_refuses_is_a_400_before_any_byte(client, route, stream, wrong, field):
    response = await ask(client, route, stream=stream, n=3, **wrong)
    assert response.status_code == 400, response.text
    problem = response.json()
    if route == NATIVE:
        assert (problem["code"], problem["field"]) == ("invalid_field", field)
        assert problem["detail"].startswith(f"{field}: ")
    else:
        assert (problem["error"]["code"], problem["error"]["param"]) == ("invalid_field", field)
        assert problem["error"]["message"].startswith(f"{field}: ")
    assert client.app.state.engine.in_flight == 0
    assert said(await ask(client, route, max_tokens=3)), "the next one is none the worse for it"
