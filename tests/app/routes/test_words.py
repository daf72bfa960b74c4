"""A recurrent network that writes words, served: what comes back is text, however it is asked for."""

import asyncio
import json

import pytest
import torch

from app.settings import Settings
from models import checkpoint
from models.gru import GRU
from tests.conftest import running
from training.tokenizer import end_of_text, train_tokenizer

URL = "/v1/text/complete"
TEXT = (
    "[Enter the KING.]\n\nKING.\nO'er all, my lords -- 'tis night; the king's own night!\nWho's there?\n\n"
    "QUEEN.\nNo man, my lord: a most unquiet ghost.\n"
)
CONFIG = {"vocab_size": 290, "width": 24, "hidden": 64, "layers": 2}
LONG = TEXT * 2  # more than one piece
PROMPTS = ("", "KING.\n", "the king's quietus — \U0001f47b", LONG)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT * 3, "quaint quick queen quill quiet ghosts ghastly"], CONFIG["vocab_size"], "words")


@pytest.fixture(scope="module")
def network(tokenizer):
    """Has learnt nothing but that words are likelier than bytes, and is never in doubt for long."""
    torch.manual_seed(0)
    network = GRU(**CONFIG)
    network.embedding.weight.data.mul_(12)
    network.out.weight.data.mul_(3)
    liked = torch.tensor([float(token > 256) for token in range(CONFIG["vocab_size"])])
    toward = torch.linalg.lstsq(network.embedding.weight.detach(), 3 * liked[:, None]).solution[:, 0]
    network.out.bias.data.copy_(toward)
    network.load_state_dict({name: tensor.half().float() for name, tensor in network.state_dict().items()})
    return network.eval()


@pytest.fixture
async def client(network, tokenizer, tmp_path):
    folder, said = tmp_path / "weights" / "words", tokenizer.to_str().encode()
    eos = end_of_text(tokenizer)
    checkpoint.save(folder, network, architecture="gru", config=CONFIG, tokenizer=said, eos_token_id=eos)
    async with running(Settings(weights=folder.parent, device="cpu", dtype="fp32", threads=1, max_slots=4)) as client:
        yield client


async def complete(client, **body):
    answer = await client.post(URL, json={"model": "words", "seed": 3, "max_tokens": 40, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def text_of(client, **body):
    return (await complete(client, **body))["choices"][0]["text"]


async def pieces_of(client, **body):
    answer = await client.post(URL, json={"model": "words", "seed": 3, "max_tokens": 40, "stream": True, **body})
    assert answer.status_code == 200, answer.text
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(event)["text"] for event in events if event != "[DONE]"]


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_the_likeliest_words_are_those_of_the_network(client, network, tokenizer, prompt):
    tokens = [*([end_of_text(tokenizer)] if not prompt else []), *tokenizer.encode(prompt).ids]
    written = []
    with torch.inference_mode():
        while len(written) < 40 and (not written or written[-1] != end_of_text(tokenizer)):
            written.append(int(network(torch.tensor([[*tokens, *written]]))[0, -1].argmax()))
    answer = await complete(client, prompt=prompt, temperature=0)
    assert answer["choices"][0]["text"] == tokenizer.decode(written)
    assert answer["usage"]["completion_tokens"] == len([token for token in written if token != end_of_text(tokenizer)])


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_a_stream_is_the_whole_in_pieces(client, prompt):
    pieces = await pieces_of(client, prompt=prompt)
    assert "".join(pieces) == await text_of(client, prompt=prompt)


@pytest.mark.parametrize("size", [1, 2, 9])
async def test_stop_strings_may_begin_and_end_within_words(client, size):
    ask = {"prompt": "[Enter the KING.]", "max_tokens": 60, "ignore_eos": True}
    whole = await text_of(client, **ask)
    assert len(whole) > 60
    for place in (1, 20, 45):
        stop = whole[place : place + size]
        cut = whole[: whole.index(stop)]
        assert await text_of(client, **ask, stop=[stop]) == cut
        assert "".join(await pieces_of(client, **ask, stop=[stop])) == cut


async def test_a_seed_says_the_same_alone_and_in_company(client):
    asks = [{"prompt": PROMPTS[i % len(PROMPTS)], "seed": i, "temperature": 1.2} for i in range(12)]
    alone = [await text_of(client, **ask) for ask in asks]
    assert await asyncio.gather(*(text_of(client, **ask) for ask in asks)) == alone
    assert len(set(alone)) > 6


async def test_the_card_says_what_it_is(client):
    card = (await client.get("/v1/models/words")).json()["genserve"]
    assert (card["kind"], card["architecture"]) == ("sequence", "gru")


async def test_a_grammar_reads_words_as_the_bytes_that_they_are(client):
    schema = {"type": "object", "properties": {"who": {"enum": ["the king's ghost", "No man"]}}, "required": ["who"]}
    asked = {"type": "json_schema", "json_schema": {"name": "who", "schema": {**schema, "additionalProperties": False}}}
    said = {await text_of(client, response_format=asked, seed=seed, max_tokens=80) for seed in range(4)}
    assert {json.loads(text)["who"] for text in said} <= {"the king's ghost", "No man"}
