"""A service that does as it is told: which pictures a set must hold is then known in advance."""

import argparse
import asyncio
import io
import json
import zipfile

import aiohttp.web
import numpy as np
from PIL import Image

from app.dataset.options import add_flags
from tests.told import ToldService

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


class Service(ToldService):
    def __init__(self):
        super().__init__()
        self.card, self.answer, self.flying, self.most_flying = dict(CARD), answer, 0, 0
        self.headers = {"X-Genserve-Model": "told@0123456789ab", "X-Genserve-Runtime": "cpu; told"}

    def routes(self):
        return [
            aiohttp.web.get("/v1/models", self._list),
            aiohttp.web.get("/v1/models/told", self._show),
            aiohttp.web.post("/v1/images/generate", self._picture),
        ]

    async def _list(self, request):
        return aiohttp.web.json_response({"data": [{"id": "told", "genserve": self.card}]})

    async def _show(self, request):
        return aiohttp.web.json_response({"id": "told", "genserve": self.card})

    async def _picture(self, request):
        body = await request.json()
        if request.headers["Accept"] != "application/zip":  # the survey's own request
            return aiohttp.web.Response(body=b"picture", headers=self.headers)
        self.bodies.append(body)
        if (refusal := self.refusal(request)) is not None:
            return refusal
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
