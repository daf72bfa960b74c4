"""The way in: `genserve dataset`."""

import sys

import pytest

from app import cli
from tests.app.dataset import told


@pytest.fixture
def genserve(monkeypatch, capsys):
    def genserve(*arguments):
        monkeypatch.setattr(sys, "argv", ["genserve", "dataset", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code, *capsys.readouterr()

    return genserve


def test_the_whole_way(service, genserve, tmp_path):
    out = tmp_path / "set"
    status, _, err = genserve("--url", service.url, "--model", "told", "--per-class", "2", "--out", str(out))
    assert (status, len(told.contents(out))) == (0, 7), err


def test_without_aiohttp(genserve, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("app.bench.", "app.dataset."))]:
        if "options" not in name:
            monkeypatch.delitem(sys.modules, name)
    for package in ("app.bench", "app.dataset"):
        monkeypatch.delattr(sys.modules[package], "command", raising=False)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    line = "genserve dataset needs aiohttp, of the extra `bench`\n"
    assert genserve("--model", "a", "--out", "b") == (2, "", line)
