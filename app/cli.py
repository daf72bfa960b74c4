"""`genserve serve`: settings from flags and environment, signals, exit codes; `genserve bench` is in app/bench.

Exit codes of serve: 0 drained and stopped, 1 the start was refused or the device worker died, 2 bad flags or settings.
"""

import argparse
import asyncio
import logging
import sys
import time
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from app import logs
from app.bench import options
from app.engine.engine import Engine
from app.main import create_app
from app.settings import Settings

FLAGS = ("host", "port", "weights", "models", "device", "dtype", "threads")
BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75
ANSWER_SECONDS = 2  # at least, for answers still on their way once everything is computed

log = logging.getLogger("genserve")


class Server(uvicorn.Server):
    """uvicorn, but the first signal drains: readiness turns 503, what was admitted is answered, then it stops."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_seconds: float) -> None:
        super().__init__(config)
        self._app = app
        self._drain_seconds = drain_seconds
        self._drain: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: Any = None) -> None:
        """Run until stopped."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    async def startup(self, sockets: Any = None) -> None:
        """Bind, then say where: with port 0 nobody knew before."""
        await super().startup(sockets)
        for server in self.servers:
            for sock in server.sockets:
                host, port = sock.getsockname()[:2]
                log.info("listening on http://%s:%d, loading models", host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's signature
        """Called by Python's signal machinery: the first signal drains, a second one stops at once."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self.stop_gracefully)

    def stop_gracefully(self) -> None:
        """Begin to drain; called again, stop at once."""
        if self._drain is not None or not self.started:
            self.should_exit = self.force_exit = True
            return
        self._drain = asyncio.ensure_future(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        engine: Engine = self._app.state.engine
        if engine.failure is None:
            log.info("draining: %d requests in flight", engine.in_flight)
        deadline = time.monotonic() + self._drain_seconds
        await engine.drain(self._drain_seconds)
        left = max(ANSWER_SECONDS, round(deadline - time.monotonic()))
        self.config.timeout_graceful_shutdown = left  # what is computed may still have to be encoded and sent
        self.should_exit = True


def build_parser() -> argparse.ArgumentParser:
    """The command line; defaults come from `Settings`, so that flags and environment agree."""
    parser = argparse.ArgumentParser(prog="genserve", description="A small inference server for generative models.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="load the models and serve them over HTTP")
    for name in FLAGS:
        field = Settings.model_fields[name]
        default = "" if name == "models" else f" (default: {field.default})"
        serve.add_argument(f"--{name}", help=f"{field.description}{default}", default=argparse.SUPPRESS)
    options.add_flags(commands.add_parser("bench", help="measure a service that runs: load it, print a table"))
    return parser


def read_settings(flags: dict[str, str]) -> Settings:
    """Settings from flags, then the environment, then defaults; exits with status 2 and one line a fault."""
    try:
        return Settings(**flags)  # type: ignore[arg-type]  # strings, which pydantic converts and checks
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            name = ".".join(map(str, fault["loc"]))
            print(f"genserve: setting {name}: {fault['msg']} (got {fault['input']!r})", file=sys.stderr)
        sys.exit(2)


def serve(settings: Settings) -> int:
    """Serve until told to stop; the exit status."""
    logs.configure(settings.log_level)
    app = create_app(settings, on_failure=lambda: server.stop_gracefully())
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=ANSWER_SECONDS,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here asks who the client is
    )
    server = Server(config, app, settings.drain_seconds)
    try:
        server.run()
    except SystemExit:  # uvicorn's way out when it can't bind
        return 1
    if not server.started:  # uvicorn has said why
        return 1
    engine: Engine = app.state.engine
    if engine.failure is not None:
        log.error("%s", engine.failure)
        return 1
    log.info("stopped")
    return 0


def bench(flags: dict[str, Any]) -> int:
    """Measure a service; the exit status."""
    try:
        from app.bench import command
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        print("genserve bench needs aiohttp: pip install 'genserve[bench]'", file=sys.stderr)
        return 2
    return command.run(flags)


def main() -> None:
    """Entry point of the `genserve` command."""
    flags = vars(build_parser().parse_args())
    sys.exit(bench(flags) if flags.pop("command") == "bench" else serve(read_settings(flags)))


if __name__ == "__main__":
    main()
