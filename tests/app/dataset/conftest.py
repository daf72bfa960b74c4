"""The told service, and sets of it."""

import pytest

from app.dataset import client, command
from tests.app.dataset import told


@pytest.fixture
def service():
    with told.Service() as service:
        yield service


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """As many tries as ever, sooner."""
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.002)


@pytest.fixture
def make(service, tmp_path, capsys):
    """`make("--format", "idx")`: the set of 70 pictures a class in tmp_path/set; status and what was said."""

    def make(*arguments, out=tmp_path / "set"):
        flags = told.flags("--url", service.url, "--model", "told", "--per-class", "70", "--out", str(out), *arguments)
        return command.run(flags), *capsys.readouterr()

    return make
