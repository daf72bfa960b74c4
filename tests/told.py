"""A service that does as it is told, in a thread of its own: what it answers is then known in advance."""

import asyncio
import threading

import aiohttp.web


class ToldService:
    """Answers with the next of `statuses`, then with 200 for ever; 0 closes the connection without an answer.

    A subclass says what it answers then: `routes`.
    """

    def __init__(self):
        self.statuses, self.bodies, self.url, self.refusal_headers = [], [], "", {}
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def routes(self):
        raise NotImplementedError

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
        app.router.add_routes(self.routes())
        runner = aiohttp.web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()

    def refusal(self, request):
        """The next answer, where that is none of 200."""
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 0:
            request.transport.abort()
        if status == 200:
            return None
        detail = {"detail": f"told to answer {status}"}
        return aiohttp.web.json_response(detail, status=status or 500, headers=self.refusal_headers)
