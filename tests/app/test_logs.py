import io
import json
import logging
import sys

import pytest

from app import logs


@pytest.fixture
def restored():
    loggers = [logging.getLogger(), logging.getLogger("genserve")]
    before = [(logger.handlers[:], logger.level) for logger in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_plain_lines(monkeypatch, restored):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    logs.configure("info")
    logging.getLogger("genserve.x").info("hello")
    logging.getLogger("genserve.x").debug("not this")
    logging.getLogger("library").info("nor this")
    (line,) = terminal.getvalue().splitlines()
    assert line.endswith("INFO    genserve.x: hello")


def test_a_file_gets_one_json_object_a_line(monkeypatch, restored):
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    logs.configure("debug")
    logging.getLogger("genserve.access").debug(
        "POST\n%s", "/x", extra={"request_id": "r1", "status": 200, "secret": "s"}
    )
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("genserve").exception("failed")
    first, second = (json.loads(line) for line in file.getvalue().splitlines())
    assert first["message"] == "POST\n/x"
    assert (first["level"], first["request_id"], first["status"]) == ("debug", "r1", 200)
    assert "secret" not in first, "only the fields of the list travel"
    assert "ValueError: broken" in second["traceback"]
