"""Flags: defaults that work, and a line for each that doesn't."""

from pathlib import Path

import pytest

from app.bench.errors import BadFlag
from app.dataset.options import MAX_SEED, read
from tests.app.dataset.told import flags

NEEDED = ("--model", "gan", "--out", "set")


def test_the_defaults():
    options = read(flags(*NEEDED))
    assert (options.url, options.model, options.out) == ("http://127.0.0.1:8000", "gan", Path("set"))
    assert (options.per_class, options.seed, options.truncation) == (1000, 0, None)
    assert (options.concurrency, options.layout) == (4, "png")


def test_what_is_given_wins():
    given = flags(
        *NEEDED, "--url", "https://[::1]:9/behind/", "--per-class", "7", "--seed", str(MAX_SEED),
        "--truncation", "0.5", "--concurrency", "64", "--format", "idx",
    )  # fmt: skip
    options = read(given)
    assert (options.url, options.per_class, options.seed) == ("https://[::1]:9/behind", 7, MAX_SEED)
    assert (options.truncation, options.concurrency, options.layout) == (0.5, 64, "idx")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(("--url", url) for url in ("", "localhost:8000", "http://a?b")),
        ("--model", ""),
        *(("--per-class", value) for value in ("", "0", "-1", "1.5", "1000001", "many")),
        *(("--seed", value) for value in ("", "-1", str(MAX_SEED + 1), "x")),
        *(("--truncation", value) for value in ("", "0", "1.1", "nan")),
        *(("--concurrency", value) for value in ("0", "65")),
        *(("--format", value) for value in ("", "jpeg")),
        *(("--out", value) for value in ("", __file__)),
    ],
)
def test_a_wrong_flag_is_named_with_its_value(flag, value):
    with pytest.raises(BadFlag) as caught:
        read(flags(*NEEDED, f"{flag}={value}"))
    assert str(caught.value).startswith(f"{flag} {value!r}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.status == 2


def test_model_and_folder_must_be_given(capsys):
    with pytest.raises(SystemExit) as caught:
        flags()
    assert caught.value.code == 2
    assert "--model, --out" in capsys.readouterr().err
