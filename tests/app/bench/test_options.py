"""Flags: defaults that work, and a line for each that doesn't."""

import argparse

import pytest

from app.bench.errors import BadFlag
from app.bench.options import add_flags, read


def flags(*arguments):
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return vars(parser.parse_args(arguments))


def test_the_defaults():
    options = read(flags())
    assert (options.url, options.models, options.clients) == ("http://127.0.0.1:8000", (), (1, 8, 32, 64))
    assert (options.seconds, options.rates, options.max_tokens, options.n) == (5.0, (0.5, 0.8, 1.2), 64, 1)
    assert (options.client, options.json) == ("auto", None)


def test_what_is_given_wins(tmp_path):
    options = read(
        flags(
            "--url", "https://[::1]:9/behind/", "--model", "a", "b", "--model", "c", "--clients", "2, 3",
            "--seconds", "0.5", "--rates", "", "--client", "python", "--json", str(tmp_path / "out.json"),
        )
    )  # fmt: skip
    assert (options.url, options.models, options.clients) == ("https://[::1]:9/behind", ("a", "b", "c"), (2, 3))
    assert (options.seconds, options.rates, options.client) == (0.5, (), "python")
    assert options.json == tmp_path / "out.json"


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(("--url", url) for url in ("", "localhost:8000", "ftp://a", "http://", "http://a:99999", "http://a:0x",
                                     "http://a b", "http://a?b", "http://a#b", "http://me:key@a")),
        *(("--clients", value) for value in ("", "0", "-1", "1.5", "10001", "1,,2", "many")),
        *(("--seconds", value) for value in ("", "0", "-1", "601", "nan", "inf", "long")),
        *(("--rates", value) for value in ("0", "-1", "101", "nan", "0.5;1")),
        *(("--max-tokens", value) for value in ("0", "x", "1000001")),
        *(("--n", value) for value in ("0", "65")),
        *(("--client", value) for value in ("", "curl")),
        *(("--json", value) for value in ("", "/", "/no/such/folder/file")),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_named_with_its_value(flag, value):
    with pytest.raises(BadFlag) as caught:
        read(flags(f"{flag}={value}"))
    assert str(caught.value).startswith(f"{flag} {value!r}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.status == 2
