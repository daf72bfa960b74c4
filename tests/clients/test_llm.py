"""Simon Willison's `llm` with OpenAI-compatible model entries."""

import json

import pytest

ENTRIES = """
- {{model_id: chat, model_name: counting, api_base: "{url}/v1", supports_schema: true}}
- {{model_id: parrot, model_name: parrot, api_base: "{url}/v1"}}
- {{model_id: text, model_name: counting, api_base: "{url}/v1", completion: true}}
- {{model_id: mute, model_name: digest, api_base: "{url}/v1"}}
"""


@pytest.fixture
def llm(program, server, tmp_path):
    (tmp_path / "extra-openai-models.yaml").write_text(ENTRIES.format(url=server.url))
    return lambda *arguments, **options: program("llm", *arguments, LLM_USER_PATH=str(tmp_path), **options)


def test_the_models_are_listed(llm):
    listed = llm("models", "list")
    assert "OpenAI Chat: chat" in listed
    assert "OpenAI Completion: text" in listed


@pytest.mark.parametrize("stream", [(), ("--no-stream",)])
def test_an_answer(llm, stream):
    assert llm("-m", "chat", *stream, "-o", "max_tokens", "4", "hi").strip() == "bcde"
    assert llm("-m", "chat", *stream, "-o", "stop", "f", "hi").strip() == "bcde"
    assert llm("-m", "text", *stream, "-o", "max_tokens", "4", "hi a").strip() == "bcde"


def test_a_conversation_goes_on(llm):
    """With a system prompt; what was said before is sent again."""
    first = llm("-m", "parrot", "-s", "be", "-o", "max_tokens", "11", "hi").strip()
    assert first == "s:be u:hi a"
    assert llm("-c", "-o", "max_tokens", "30", "yo").strip() == "s:be u:hi a:s:be u:hi a u:yo a"


def test_a_schema(llm):
    schema = {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"], "additionalProperties": False}
    assert json.loads(llm("-m", "chat", "--schema", json.dumps(schema), "hi")) == {"n": 7}


def test_usage_is_logged(llm):
    llm("-m", "chat", "-o", "max_tokens", "4", "hi")
    (entry,) = json.loads(llm("logs", "list", "--json", "-n", "1"))
    assert (entry["response"], entry["input_tokens"], entry["output_tokens"]) == ("bcde", len("u:hi a"), 4)


def test_a_refusal_is_shown(llm, program):
    with pytest.raises(AssertionError, match="digest has no chat template"):
        llm("-m", "mute", "hi")
