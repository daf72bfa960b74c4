"""`genserve serve`: settings from flags and environment, signals, exit codes; app/bench and app/dataset are clients.

Exit codes of serve: 0 drained and stopped, 1 the start was refused, 2 bad flags or settings, 3 the device worker ended
again and again.
"""

import argparse
import logging
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import ValidationError

from app import logs
from app.bench import options as bench_options
from app.dataset import options as dataset_options
from app.engine.supervisor import Launch, early_processes
from app.settings import Settings

COMMANDS = "genserve.commands"  # entry points of other packages: modules with `main(arguments) -> exit status`
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
    bench_options.add_flags(commands.add_parser("bench", help="measure a service that runs: load it, print a table"))
    dataset_options.add_flags(commands.add_parser("dataset", help="write a labelled set of a service's pictures"))
    for name in more_commands():
        commands.add_parser(name, help=f"see genserve {name} --help")
    return parser


def more_commands() -> dict[str, EntryPoint]:
    """Commands that other packages bring, by name; none is loaded before it is called."""
    return {point.name: point for point in entry_points(group=COMMANDS)}


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
    with early_processes(len(settings.devices)) as launch:
        return _serve(settings, launch)


def _serve(settings: Settings, launch: Launch) -> int:
    # Imported while the workers import torch, which takes about as long.
    from app.engine.engine import Engine
    from app.limits import Limits
    from app.main import create_app
    from app.server import Server

    app = create_app(settings, launch=launch, on_failure=lambda: server.stop_gracefully())
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


def ask(command: str, flags: dict[str, Any]) -> int:
    """Be a client of a service, as the command says; the exit status."""
    try:
        from app.bench import command as bench
        from app.dataset import command as dataset
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        print(f"genserve {command} needs aiohttp, of the extra `bench`", file=sys.stderr)
        return 2
    run = {"bench": bench.run, "dataset": dataset.run}[command]
    return run(flags)


def _call(point: EntryPoint, arguments: list[str]) -> int:
    """Run a command of another package; the exit status."""
    try:
        module = point.load()
    except ModuleNotFoundError as error:  # an image that holds the service alone lists it too
        package = (error.name or "").partition(".")[0]
        print(f"genserve {point.name} needs the package {package!r}, which is not installed here", file=sys.stderr)
        return 2
    status: int = module.main(arguments)
    return status


def main() -> None:
    """Entry point of the `genserve` command."""
    if sys.argv[1:] and (point := more_commands().get(sys.argv[1])):
        sys.exit(_call(point, sys.argv[2:]))
    flags = vars(build_parser().parse_args())
    command = flags.pop("command")
    sys.exit(serve(read_settings(flags)) if command == "serve" else ask(command, flags))


if __name__ == "__main__":
    main()
