"""Contract 1 for text, on the committed weights: a seed gives the same tokens alone, in company, after a restart."""

import asyncio
import itertools

import httpx
import pytest

from tests.conftest import COMMITTED
from tests.serving import serving

MODEL = "shakespeare-gpt"
PICTURES = [folder.parent.name for folder in sorted(COMMITTED.glob("fashion-*/model.safetensors"))]
REQUESTS = 64
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

pytestmark = [
    pytest.mark.skipif(
        not (COMMITTED / MODEL / "model.safetensors").is_file(), reason=f"weights/{MODEL} is not in this checkout"
    ),
    pytest.mark.timeout(600),
]


def requests():
    lengths = itertools.cycle((1, 9, 24, 40))
    for i in range(REQUESTS):
        body = {"prompt": PROMPTS[i % len(PROMPTS)], "max_tokens": next(lengths), "seed": 7 * i}
        yield {**body, **STYLES[i % len(STYLES)], "model": MODEL}


async def choices(client, body):
    response = await client.post("/v1/text/complete", json=body)
    assert response.status_code == 200, response.text
    return [{**choice, "index": 0} for choice in response.json()["choices"]]


async def picture(client, i):
    body = {"model": PICTURES[i % len(PICTURES)], "seed": i, "n": 1 + i % 9}
    response = await client.post("/v1/images/generate", json=body)
    assert response.status_code == 200, response.text
    return response.content


async def everything_at_once(url):
    """All texts, with pictures between them."""
    limits = httpx.Limits(max_connections=2 * REQUESTS)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        others = [picture(client, i) for i in range(REQUESTS if PICTURES else 0)]
        asked = [choices(client, body) for body in requests()]
        done = await asyncio.gather(*(one for pair in itertools.zip_longest(asked, others) for one in pair if one))
    return [answer for answer in done if isinstance(answer, list)]


async def one_by_one(url, every):
    """Some of the requests, each choice as a request of its own."""
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        found = {}
        for i, body in list(enumerate(requests()))[::every]:
            alone = [{**body, "seed": body["seed"] + j, "n": 1} for j in range(body.get("n", 1))]
            found[i] = [(await choices(client, single))[0] for single in alone]
    return found


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
