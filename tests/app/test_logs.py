import io
import json
import logging
import sys
import warnings

import pytest
from PIL import Image, TiffImagePlugin

from app import logs


@pytest.fixture
def restored():
    loggers = [logging.getLogger(name) for name in (None, "genserve", "PIL")]
    before = [(logger.handlers[:], logger.level) for logger in loggers]
    with warnings.catch_warnings():
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


def test_odd_uploads_write_no_lines(monkeypatch, restored):
    """Nor do they fill Python's table of warnings that were given already."""
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0"
    Image.new("L", (8, 8)).save(odd := io.BytesIO(), "jpeg", exif=exif)
    seen = entries()
    warnings.simplefilter("default")
    logs.configure("debug")
    Image.open(odd).load()
    assert file.getvalue() == ""
    assert entries() == seen


def entries():
    """What Python remembers of warnings given in that module."""
    return set(getattr(TiffImagePlugin, "__warningregistry__", ())) - {"version"}


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
