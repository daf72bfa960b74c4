"""Contract 1 for text: a seed gives the same tokens alone, in company and after a restart.

On the committed weights, and on tiny ones in few bits.
"""

import asyncio
import itertools

import httpx
import pytest
import torch

from models import checkpoint
from models.llama import Llama
from tests import fake_sequences
from tests.conftest import COMMITTED
from tests.serving import PATIENCE, serving

MODEL = "shakespeare-gpt"
PICTURES = [folder.parent.name for folder in sorted(COMMITTED.glob("fashion-*/model.safetensors"))]
REQUESTS = 64
COMPANY = 8  # others beside each request in few bits
# Every product of it fits into groups of 4 bits.
TINY = {
    "vocab_size": fake_sequences.VOCAB,
    "max_length": 512,
    "width": 64,
    "layers": 2,
    "heads": 4,
    "key_heads": 2,
    "head_dim": 32,
    "feed_width": 96,
}
FEW_BITS = ("int8", "int4")
PROMPTS = (
    "",
    "HAMLET.\n",
    "To be, or not to be",
    "Enter the KING, with his train.\n\n" * 3,
    "O Romeo, Romeo! " * 16,
    "O Romeo, Romeo! " * 24 + "wherefore art thou",  # begins as the one before: some of it is taken over
)
STYLES = (
    {},
    {"temperature": 0},
    {"temperature": 0.8, "top_k": 40},
    {"top_p": 0.9},
    {"temperature": 1.3, "min_p": 0.05},
    {"repetition_penalty": 1.2, "stop": ["\n\n"]},
    {"temperature": 0.7, "top_p": 0.8, "n": 2},
    {"top_k": 700, "top_p": 0.99, "frequency_penalty": 0.3},
)

pytestmark = pytest.mark.timeout(600)
committed = pytest.mark.skipif(
    not (COMMITTED / MODEL / "model.safetensors").is_file(), reason=f"weights/{MODEL} is not in this checkout"
)


def requests(model=MODEL):
    lengths = itertools.cycle((1, 9, 24, 40))
    for i in range(REQUESTS):
        body = {"prompt": PROMPTS[i % len(PROMPTS)], "max_tokens": next(lengths), "seed": 7 * i}
        yield {**body, **STYLES[i % len(STYLES)], "model": model}


async def choices(client, body):
    response = await client.post("/v1/text/complete", json=body)
    assert response.status_code == 200, response.text
    return [{**choice, "index": 0} for choice in response.json()["choices"]]


async def picture(client, i):
    body = {"model": PICTURES[i % len(PICTURES)], "seed": i, "n": 1 + i % 9}
    response = await client.post("/v1/images/generate", json=body)
    assert response.status_code == 200, response.text
    return response.content


async def everything_at_once(url, model=MODEL, pictures=PICTURES):
    """All texts, with pictures between them."""
    limits = httpx.Limits(max_connections=2 * REQUESTS)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        others = [picture(client, i) for i in range(REQUESTS if pictures else 0)]
        asked = [choices(client, body) for body in requests(model)]
        done = await asyncio.gather(*(one for pair in itertools.zip_longest(asked, others) for one in pair if one))
    return [answer for answer in done if isinstance(answer, list)]


async def one_by_one(url, every, model=MODEL):
    """Some of the requests, each choice as a request of its own."""
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        found = {}
        for i, body in list(enumerate(requests(model)))[::every]:
            alone = [{**body, "seed": body["seed"] + j, "n": 1} for j in range(body.get("n", 1))]
            found[i] = [(await choices(client, single))[0] for single in alone]
    return found


@committed
async def test_tokens_alone_in_company_and_after_a_restart():
    flags = ("--weights", str(COMMITTED), "--models", ",".join([MODEL, *PICTURES]))
    with serving(*flags) as server:
        together = await everything_at_once(server.url)
        assert server.metric("genserve_batch_size_sum", model=MODEL) > 4 * server.metric(
            "genserve_batch_size_count", model=MODEL
        ), "they did run together"
        for i, alone in (await one_by_one(server.url, 2)).items():
            assert alone == together[i], i
    assert len({choice["text"] for answer in together for choice in answer}) > REQUESTS / 2
    with serving(*flags) as server:
        for i, alone in (await one_by_one(server.url, 5)).items():
            assert alone == together[i], i
        assert await everything_at_once(server.url) == together


@pytest.fixture
def few_bits(tmp_path):
    """Flags that serve one tiny network in int8 and in int4, under these names."""
    torch.manual_seed(0)
    network, tokenizer = Llama(**TINY), fake_sequences.tokenizer_file()
    for name in FEW_BITS:
        checkpoint.save(
            tmp_path / name,
            network,
            architecture="llama",
            config=TINY,
            tokenizer=tokenizer,
            eos_token_id=fake_sequences.EOS,
        )
    return "--weights", str(tmp_path), "--dtype", ",".join(f"{name}={name}" for name in FEW_BITS)


async def dtype_of(url, model):
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
        return (await client.get(f"/v1/models/{model}")).json()["genserve"]["dtype"]


async def test_tokens_in_few_bits(few_bits):
    env = {"GENSERVE_MAX_SLOTS": str(1 + COMPANY), "GENSERVE_DTYPE": "auto"}
    together = {}
    with serving(*few_bits, env=env) as server:
        for model in FEW_BITS:
            assert await dtype_of(server.url, model) == model
            together[model] = await everything_at_once(server.url, model, [])
            rows, ticks = (server.metric(f"genserve_batch_size_{part}", model=model) for part in ("sum", "count"))
            assert rows > COMPANY / 2 * ticks, "they did run together"
            for i, alone in (await one_by_one(server.url, 4, model)).items():
                assert alone == together[model][i], (model, i)
            assert len({choice["text"] for answer in together[model] for choice in answer}) > REQUESTS / 2
    assert together["int8"] != together["int4"]
    with serving(*few_bits, env=env) as server:
        for model in FEW_BITS:
            for i, alone in (await one_by_one(server.url, 8, model)).items():
                assert alone == together[model][i], (model, i)
            assert await everything_at_once(server.url, model, []) == together[model]
