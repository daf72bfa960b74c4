"""`litellm`, as a library, in a process of its own."""

import json

import pytest

SCRIPT = """
import asyncio, json, sys
import litellm

litellm.suppress_debug_info = True
url, tests = sys.argv[1], {}
there = {"api_base": url + "/v1", "api_key": "none", "max_retries": 0}
talk = {"model": "openai/counting", "messages": [{"role": "user", "content": "hi"}], **there}

answer = litellm.completion(**talk, max_tokens=4, n=2, logprobs=True, top_logprobs=1, seed=1)
tests["answer"] = [choice.message.content for choice in answer.choices]
tests["usage"] = [answer.usage.prompt_tokens, answer.usage.completion_tokens]
tests["logprobs"] = [token.token for token in answer.choices[0].logprobs.content]

chunks = list(litellm.completion(**talk, max_tokens=4, stream=True, stream_options={"include_usage": True}))
tests["stream"] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
tests["stream usage"] = chunks[-1].usage.completion_tokens
tests["rebuilt"] = litellm.stream_chunk_builder(chunks).choices[0].message.content

async def streamed():
    return [chunk async for chunk in await litellm.acompletion(**talk, max_tokens=4, stream=True)]

tests["async stream"] = "".join(chunk.choices[0].delta.content or "" for chunk in asyncio.run(streamed()))

text = litellm.text_completion(model="text-completion-openai/counting", prompt="a", max_tokens=4, **there)
tests["text"] = text.choices[0].text

schema = {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"], "additionalProperties": False}
wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
made = litellm.completion(**talk, response_format=wanted)
tests["schema"] = json.loads(made.choices[0].message.content)
tests["extra"] = litellm.completion(**talk, max_tokens=4, extra_body={"regex": "x{2}"}).choices[0].message.content

for name, wrong in {"400": {"temperature": 1.5, "top_p": 2}, "404": {"model": "openai/other"}}.items():
    try:
        litellm.completion(**{**talk, **wrong})
    except litellm.exceptions.APIError as error:
        tests[name] = [type(error).__name__, error.status_code]
    except Exception as error:
        tests[name] = [type(error).__name__, getattr(error, "status_code", None)]
print("RESULT " + json.dumps(tests))
"""


@pytest.fixture(scope="module")
def result(program, server):
    (line,) = [line for line in program("python", "-c", SCRIPT, server.url).splitlines() if line.startswith("RESULT ")]
    return json.loads(line.removeprefix("RESULT "))


@pytest.mark.parametrize(
    ("what", "wanted"),
    [
        ("answer", ["bcde", "bcde"]),
        ("usage", [6, 8]),
        ("logprobs", ["b", "c", "d", "e"]),
        ("stream", "bcde"),
        ("stream usage", 4),
        ("rebuilt", "bcde"),
        ("async stream", "bcde"),
        ("text", "bcde"),
        ("schema", {"n": 7}),
        ("extra", "xx"),
        ("400", ["BadRequestError", 400]),
        ("404", ["NotFoundError", 404]),
    ],
)
def test_what_it_gets(result, what, wanted):
    assert result[what] == wanted
