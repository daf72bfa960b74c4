"""`genserve serve`: settings from flags and environment, signals, exit codes; `genserve bench` is in app/bench.

Exit codes of serve: 0 drained and stopped, 1 the start was refused, 2 bad flags or settings, 3 the device worker ended
again and again.
"""

import argparse
import logging
import sys
from typing import Any

from pydantic import ValidationError

from app import logs
from app.bench import options
from app.engine.engine import Engine
from app.limits import Limits
from app.main import create_app
from app.server import Server
from app.settings import Settings

FLAGS = ("host", "port", "weights", "models", "device", "dtype", "threads")

log = logging.getLogger("genserve")


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
    limits = Limits(settings.max_header, settings.read_timeout, settings.write_timeout, settings.max_connections)
    server = Server(app, settings.host, settings.port, settings.drain_seconds, limits)
    try:
        server.run()
    except SystemExit:  # uvicorn's way out when it can't bind
        return 1
    if not server.started:  # uvicorn has said why
        return 1
    engine: Engine = app.state.engine
    if engine.failure is not None:
        log.error("%s", engine.failure)
        return 3 if engine.begun else 1
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
