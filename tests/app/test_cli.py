"""Flags, settings and signals of `genserve`; whole runs of it are in tests/test_server.py."""

import asyncio
import sys

import pytest
import uvicorn

from app import cli
from app.cli import Server, build_parser, read_settings
from app.settings import Settings


@pytest.mark.parametrize("name", cli.FLAGS)
def test_every_flag_is_a_setting_with_a_description(name, capsys):
    assert name in Settings.model_fields
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(["serve", "--help"])
    assert caught.value.code == 0
    assert f"--{name}" in capsys.readouterr().out


def test_flags_win_over_the_environment(monkeypatch):
    monkeypatch.setenv("GENSERVE_PORT", "1")
    monkeypatch.setenv("GENSERVE_HOST", "0.0.0.0")
    flags = vars(build_parser().parse_args(["serve", "--port", "2", "--models", "a,b"]))
    flags.pop("command")
    settings = read_settings(flags)
    assert (settings.host, settings.port, settings.models) == ("0.0.0.0", 2, ("a", "b"))


@pytest.mark.parametrize(
    ("flags", "line"), [({"port": "x"}, "setting port: "), ({"device": "gpu"}, "setting device: ")]
)
def test_wrong_settings_end_with_status_2_and_a_line(flags, line, capsys):
    with pytest.raises(SystemExit) as caught:
        read_settings(flags)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert line in err
    assert len(err.splitlines()) == 1


def test_no_command_is_an_error(capsys):
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args([])
    assert caught.value.code == 2


def test_main_ends_with_the_status_of_serve(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "argv", ["genserve", "serve", "--port", "0"])
    monkeypatch.setattr(cli, "serve", lambda settings: seen.append(settings) or 7)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 7
    assert seen[0].port == 0


class Engine:
    failure, in_flight = None, 3

    def __init__(self):
        self.drained, self.done = [], asyncio.Event()

    async def drain(self, seconds):
        self.drained.append(seconds)
        await self.done.wait()


@pytest.fixture
def server():
    class App:
        class state:  # noqa: N801
            engine = Engine()

    server = Server(uvicorn.Config(App(), log_level="warning"), App(), 9.0)
    server.started = True
    return server


async def test_the_first_signal_drains_and_the_second_stops(server):
    engine = server._app.state.engine
    server._loop = asyncio.get_running_loop()
    server.handle_exit(15, None)
    for _ in range(3):
        await asyncio.sleep(0)
    assert engine.drained == [9.0]
    assert not server.should_exit
    server.handle_exit(15, None)
    await asyncio.sleep(0)
    assert server.should_exit
    assert server.force_exit
    assert engine.drained == [9.0]
    engine.done.set()
    await server._drain


async def test_after_the_drain_the_server_stops(server):
    server._app.state.engine.done.set()
    server.stop_gracefully()
    await server._drain
    assert server.should_exit
    assert not server.force_exit
    assert cli.ANSWER_SECONDS <= server.config.timeout_graceful_shutdown <= 9


def test_a_signal_before_the_start_stops_at_once(server):
    server.started = False
    server.stop_gracefully()
    assert server.should_exit
