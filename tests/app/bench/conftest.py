"""A service that does as it is told: what the load generator counts is then known in advance."""

import asyncio
import json

import aiohttp.web
import pytest

from tests.told import ToldService

MODELS = {
    "data": [
        {"id": "broken", "genserve": {"status": "failed", "error": "no weights"}},
        {"id": "gan", "genserve": {"status": "ready", "kind": "latent", "digest": "d1"}},
        {"id": "gpt", "genserve": {"status": "ready", "kind": "sequence", "digest": "d2"}},
    ]
}
EVENTS = [
    {"index": 0, "text": "one"},
    {"index": 0, "text": " two"},
    {"index": 0, "text": "", "finish_reason": "length", "usage": {"completion_tokens": 4}},
]


class Service(ToldService):
    """From the request after the first `free` on, a picture takes `hold` seconds."""

    def __init__(self):
        super().__init__()
        self.models, self.events, self.done, self.hold, self.free = MODELS, EVENTS, True, 0, 0

    def routes(self):
        return [
            aiohttp.web.get("/v1/models", self._list),
            aiohttp.web.post("/v1/images/generate", self._picture),
            aiohttp.web.post("/v1/text/complete", self._text),
        ]

    async def _list(self, request):
        if isinstance(self.models, int):
            return aiohttp.web.json_response({"error": {"message": "models are\nbeing loaded"}}, status=self.models)
        return aiohttp.web.Response(text=self.models if isinstance(self.models, str) else json.dumps(self.models))

    async def _next(self, request):
        self.bodies.append(await request.read())
        return self.refusal(request)

    async def _picture(self, request):
        refusal = await self._next(request)
        if len(self.bodies) > self.free:
            await asyncio.sleep(self.hold)
        headers = {"X-Genserve-Runtime": "cpu; told"}
        return refusal or aiohttp.web.Response(body=b"picture", headers=headers)

    async def _text(self, request):
        refusal = await self._next(request)
        if refusal:
            return refusal
        response = aiohttp.web.StreamResponse(headers={"X-Genserve-Runtime": "cpu; told"})
        await response.prepare(request)
        await response.write(b": ping\n\n")
        for event in self.events:
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        if self.done:
            await response.write(b"data: [DONE]\n\n")
        return response


@pytest.fixture
def service():
    with Service() as service:
        yield service
