"""A service that does as it is told: which pictures a set must hold is then known in advance."""

import argparse
import asyncio
import io
import json
import threading
import zipfile

import aiohttp.web
import numpy as np
from PIL import Image

from app.dataset.options import add_flags

LABELS = ("left/right", "up", "down")
CARD = {
    "status": "ready", "kind": "latent", "digest": "0123456789abcdef", "num_classes": 3, "labels": list(LABELS),
    "image": {"height": 4, "width": 6, "channels": 1},
}  # fmt: skip


def picture(seed, label):
    """Grey levels [4, 6] that tell seed and label."""
    return np.full((4, 6), (7 * seed + 50 * label) % 256, np.uint8)


def png(array):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "png")
    return out.getvalue()


def bundle(files, method=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return out.getvalue()


def answer(body):
    """What the service gives for a request, as told by its pictures."""
    seeds = range(body["seed"], body["seed"] + body["n"])
    return bundle((f"told-{i:02d}-seed-{s}.png", png(picture(s, body.get("label", 0)))) for i, s in enumerate(seeds))


class Service:
    """Answers with the next of `statuses`, then with 200 for ever; 0 closes the connection without an answer."""

    def __init__(self):
        self.statuses, self.bodies, self.card, self.answer = [], [], dict(CARD), answer
        self.headers = {"X-Genserve-Model": "told@0123456789ab", "X-Genserve-Runtime": "cpu; told"}
        self.refusal_headers, self.flying, self.most_flying, self.url = {}, 0, 0, ""
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        assert self._started.wait(30)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def _run(self):
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self):
        self._stop = asyncio.Event()
        app = aiohttp.web.Application()
        app.router.add_get("/v1/models", self._list)
        app.router.add_get("/v1/models/told", self._show)
        app.router.add_post("/v1/images/generate", self._picture)
        runner = aiohttp.web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _list(self, request):
        return aiohttp.web.json_response({"data": [{"id": "told", "genserve": self.card}]})

    async def _show(self, request):
        return aiohttp.web.json_response({"id": "told", "genserve": self.card})

    async def _picture(self, request):
        body = await request.json()
        if request.headers["Accept"] != "application/zip":  # the survey's own request
            return aiohttp.web.Response(body=b"picture", headers=self.headers)
        self.bodies.append(body)
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 0:
            request.transport.abort()
        if status != 200:
            detail = {"detail": f"told to answer {status}"}
            return aiohttp.web.json_response(detail, status=status or 500, headers=self.refusal_headers)
        self.flying += 1
        self.most_flying = max(self.most_flying, self.flying)
        await asyncio.sleep(0)
        self.flying -= 1
        return aiohttp.web.Response(body=self.answer(body), headers=self.headers)


def flags(*arguments):
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return vars(parser.parse_args(arguments))


def contents(folder):
    """Every file below a folder, by its path in it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def manifest(folder):
    return json.loads((folder / "manifest.json").read_bytes())
