"""Pictures and text on one device: how much each slows the other down.

    python benchmarks/mixed.py [--url http://127.0.0.1:8000] [--seconds 15]

Measures the latency of single pictures and of short completions, alone and while the other kind keeps the device busy.
The client runs on the same machine and takes CPU time of its own, which counts against the service.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable

import httpx
import numpy as np

PICTURE = {"label": 7}
TEXT = {"prompt": "HAMLET.\n", "max_tokens": 16, "temperature": 0.8}
LONG_TEXT = {"prompt": "HAMLET.\n", "max_tokens": 256, "temperature": 0.8}
STREAMS, PICTURE_CLIENTS = 4, 4


async def picture(client: httpx.AsyncClient) -> None:
    (await client.post("/v1/images/generate", json=PICTURE)).raise_for_status()


async def text(client: httpx.AsyncClient) -> None:
    (await client.post("/v1/text/complete", json=TEXT)).raise_for_status()


async def stream(client: httpx.AsyncClient) -> None:
    async with client.stream("POST", "/v1/text/complete", json={**LONG_TEXT, "stream": True}) as answer:
        answer.raise_for_status()
        async for _ in answer.aiter_bytes():
            pass


async def forever(call: Callable[[httpx.AsyncClient], Awaitable[None]], client: httpx.AsyncClient) -> None:
    while True:
        await call(client)


async def latencies(
    call: Callable[[httpx.AsyncClient], Awaitable[None]], client: httpx.AsyncClient, seconds: float
) -> np.ndarray:
    """Milliseconds of one call after the other."""
    took, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        await call(client)
        took.append((time.perf_counter() - start) * 1000)
    return np.array(took)


async def measure(url: str, seconds: float) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await latencies(picture, client, 2)
        await latencies(text, client, 2)
        for name, call, other, others in (
            ("picture", picture, stream, STREAMS),
            ("text, 16 tokens", text, picture, PICTURE_CLIENTS),
        ):
            alone = await latencies(call, client, seconds)
            tasks = [asyncio.create_task(forever(other, client)) for _ in range(others)]
            await asyncio.sleep(1)
            beside = await latencies(call, client, seconds)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(1)
            for what, values in (("alone", alone), (f"beside {others} x {other.__name__}", beside)):
                p50, p99 = np.percentile(values, (50, 99))
                print(f"{name:<16} {what:<22} n {len(values):>5}  p50 {p50:7.2f} ms  p99 {p99:7.2f} ms")
            print(f"{name:<16} p99 beside / alone: {np.percentile(beside, 99) / np.percentile(alone, 99):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args()
    asyncio.run(measure(options.url, options.seconds))
