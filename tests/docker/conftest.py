"""One stack for all tests of the containers: built and started once, taken down at the end whatever happens."""

import pytest

from tests.docker.stack import PROMETHEUS, URL, Stack, no_engine, taken

FIGURES: dict[str, str] = {}


@pytest.fixture(scope="session")
def stack():
    if reason := no_engine():
        pytest.skip(reason)
    for url in (URL, PROMETHEUS):
        assert not taken(url), f"something else listens on {url}"
    stack = Stack()
    stack.figures = FIGURES
    stack.figures["build, with what the cache holds"] = f"{stack.build():.0f} s"
    try:
        stack.figures["start to ready"] = f"{stack.start():.1f} s"
        yield stack
    finally:
        stack.down()


def pytest_terminal_summary(terminalreporter):
    if FIGURES:
        terminalreporter.section("containers")
        for name, value in FIGURES.items():
            terminalreporter.line(f"{name:<44}{value}")
