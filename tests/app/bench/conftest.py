"""A service that does as it is told: what the load generator counts is then known in advance."""

import asyncio
import json
import threading

import aiohttp.web
import pytest

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


class Service:
    """Answers with the next of `statuses`, then with 200 for ever; 0 closes the connection without an answer.

    From the request after the first `free` on, a picture takes `hold` seconds.
    """

    def __init__(self):
        self.statuses, self.models, self.events = [], MODELS, EVENTS
        self.bodies, self.url, self.done, self.hold, self.free = [], "", True, 0, 0
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
        app.router.add_post("/v1/images/generate", self._picture)
        app.router.add_post("/v1/text/complete", self._text)
        runner = aiohttp.web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _list(self, request):
        if isinstance(self.models, int):
            return aiohttp.web.json_response({"error": {"message": "models are\nbeing loaded"}}, status=self.models)
        return aiohttp.web.Response(text=self.models if isinstance(self.models, str) else json.dumps(self.models))

    async def _next(self, request):
        self.bodies.append(await request.read())
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 0:
            request.transport.abort()
        if status != 200:
            return aiohttp.web.json_response({"detail": f"told to answer {status}"}, status=status or 500)
        return None

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
