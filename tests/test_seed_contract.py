"""Contract 1 on the committed weights: a seed gives the same bytes alone, in any batch, before and after a restart."""

import asyncio
import base64
import itertools

import httpx
import pytest

from tests.conftest import COMMITTED
from tests.serving import PATIENCE, serving

URL = "/v1/images/generate"
MODELS = sorted(folder.parent.name for folder in COMMITTED.glob("fashion-*/model.safetensors"))
SIZES = (1, 2, 3, 5, 8, 13, 21, 34, 64)  # on both sides of every bucket's edge once they are mixed
REQUESTS = 64

pytestmark = [
    pytest.mark.skipif("fashion-gan" not in MODELS, reason="weights/fashion-gan is not in this checkout"),
    pytest.mark.timeout(1800),
]


def requests(model, count):
    """So many requests of 1 to 64 pictures with labels of all kinds; their seeds overlap, so that pictures recur."""
    sizes = itertools.cycle(SIZES)
    for i in range(count):
        label = {} if i % 11 == 10 else {"label": i % 11}
        truncation = {"truncation": 0.7} if i % 5 == 4 else {}
        yield {"model": model, "seed": 10 * i, "n": next(sizes), **label, **truncation}


def single(body, j):
    """Picture j of a request, as a request of its own."""
    return {**body, "seed": body["seed"] + j, "n": 1}


def key(body, j):
    return body["model"], body["seed"] + j, body.get("label"), body.get("truncation")


async def pictures(client, body):
    """The files of a request, in order."""
    response = await client.post(URL, json=body, headers={"Accept": "application/json"})
    assert response.status_code == 200, response.text
    return [base64.b64decode(item["base64"]) for item in response.json()["images"]]


async def generate_all(url, each):
    """Every picture of every request, all requests at once; pictures that recur are the same each time."""
    found, count = {}, 0
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=REQUESTS)) as client:
        bodies = [body for pair in zip(*(requests(model, each) for model in MODELS), strict=True) for body in pair]
        for start in range(0, len(bodies), REQUESTS):
            group = bodies[start : start + REQUESTS]
            for body, files in zip(group, await asyncio.gather(*(pictures(client, b) for b in group)), strict=True):
                for j, content in enumerate(files):
                    assert found.setdefault(key(body, j), content) == content, (body, j)
                    count += 1
    return found, count


async def generate_alone(url, found):
    """Each picture again in a request of its own, one after the other: batches of a single row."""
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
        for (model, seed, label, truncation), content in found.items():
            body = {"model": model, "seed": seed, "label": label, "truncation": truncation}
            response = await client.post(URL, json=body)
            assert response.content == content, body


@pytest.mark.parametrize(
    ("each", "dtype", "threads"),
    [(6, "fp32", 1), (6, "auto", 1), (6, "auto", 2), pytest.param(REQUESTS, "auto", 0, marks=pytest.mark.slow)],
)
async def test_bytes_alone_in_any_batch_and_after_a_restart(each, dtype, threads):
    """On two threads batches are computed beside each other, and the second server computes on one.

    With 64 requests a model, on as many threads as a user gets, more than 1,000 pictures of each: minutes of single
    requests on a busy machine.
    """
    env = {"GENSERVE_MAX_QUEUE": str(64 * REQUESTS), "GENSERVE_DTYPE": dtype, "GENSERVE_THREADS": str(threads)}
    flags = ("--weights", str(COMMITTED), "--models", ",".join(MODELS))
    with serving(*flags, env=env) as server:
        together, count = await generate_all(server.url, each)
        assert count >= 16 * each * len(MODELS) or each < len(SIZES)
        assert len(set(together.values())) > 0.9 * len(together), "different requests give different pictures"
        await generate_alone(server.url, together)
        sizes = {name: server.metric("genserve_batch_size_count", model=name) for name in MODELS}
        assert all(sizes.values())
    with serving(*flags, env={**env, "GENSERVE_THREADS": "1"} if threads == 2 else env) as server:
        again, _ = await generate_all(server.url, each)
    assert again == together
