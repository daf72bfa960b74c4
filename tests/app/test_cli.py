"""Flags and settings of `genserve`; whole runs of it are in tests/test_server.py."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from app import cli
from app.cli import build_parser, read_settings
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
    ("flags", "line"),
    [
        ({"port": "x"}, "setting port: "),
        ({"device": "gpu"}, "setting device: "),
        ({"dtype": "auto,a=q4"}, "setting dtype: Value error, 'a=q4' is neither a precision"),
    ],
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


def test_a_command_of_another_package_is_listed_and_gets_its_arguments(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["--help"])
    assert "evaluate" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["genserve", "evaluate", "--model", "nobody", "--url", "http://127.0.0.1:1"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert "http://127.0.0.1:1: can't be reached" in capsys.readouterr().err


def test_a_command_whose_package_is_not_there_says_so(monkeypatch, capsys):
    """As in the image, which knows the commands of `training` by name and has no `training`."""
    missing = EntryPoint("evaluate", "no_such_package.served", cli.COMMANDS)
    monkeypatch.setattr(cli, "more_commands", lambda: {"evaluate": missing})
    monkeypatch.setattr(sys, "argv", ["genserve", "evaluate"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    said = "genserve evaluate needs the package 'no_such_package', which is not installed here\n"
    assert capsys.readouterr().err == said


def test_serving_loads_no_command_of_another_package():
    code = "import sys; from app.cli import build_parser; build_parser(); sys.exit('training' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
