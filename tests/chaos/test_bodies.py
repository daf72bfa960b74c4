"""Bad requests: each gets the error that the documentation names, or a clean close; nobody else notices."""

import asyncio
import json

import pytest

from tests.chaos import asks
from tests.chaos.clients import clients, exchange
from tests.chaos.server import READ_SECONDS

HEAD = b"POST %s HTTP/1.1\r\nHost: genserve\r\nContent-Type: application/json\r\nConnection: close\r\n"
ROUTES = ("/v1/images/generate", "/v1/text/complete", "/v1/images/generations", "/v1/completions")


def post(route, body, *more):
    lines = b"".join(line + b"\r\n" for line in (b"Content-Length: %d" % len(body), *more))
    return HEAD % route.encode() + lines + b"\r\n" + body


def status_and_code(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    said = json.loads(body)
    return int(head.split()[1]), said["error"]["code"] if "error" in said else said["code"]


BODIES = {
    "nothing": (b"", "invalid_json"),
    "half an object": (b'{"n":', "invalid_json"),
    "two objects": (b"{}{}", "invalid_json"),
    "a list": (b"[]", "invalid_json"),
    "a number": (b"1e999", "invalid_json"),
    "null": (b"null", "invalid_json"),
    "deep lists": (b"[" * 200_000, "invalid_json"),
    "deep objects": (b'{"model":' * 100_000, "invalid_json"),
    "deep and closed": (b'{"user":' + b"[" * 50_000 + b"]" * 50_000 + b"}", None),
    "NaN": (b'{"seed": NaN}', None),
    "an infinite number": (b'{"seed": 1e400}', None),
    "a number of 100,000 digits": (b'{"seed": ' + b"9" * 100_000 + b"}", None),
    "not UTF-8": (b'{"model": "\xff\xfe"}', "invalid_json"),
    "UTF-16": ('{"n": 1}'.encode("utf-16"), "invalid_json"),
    "half a pair": (b'{"model": "\\ud800"}', None),
    "a zero character": (b'{"model": "a\\u0000b"}', None),
    "a control character": (b'{"model": "\x01"}', "invalid_json"),
    "a key twice": (b'{"seed": 1, "seed": -1}', "invalid_field"),
    "100,000 keys": (b"{" + b",".join(b'"k%d":1' % i for i in range(60_000)) + b"}", "unknown_field"),
    "a long key": (b'{"' + b"k" * 500_000 + b'":1}', "unknown_field"),
    "a path for a name": (b'{"model": "../../etc/passwd"}', "model_not_found"),
    "another kind of number": (b'{"n": 1.5}', "invalid_field"),
    "a word for a number": (b'{"n": "1"}', "invalid_field"),
    "too many": (b'{"n": 1000000000000}', "invalid_field"),
}


@pytest.mark.parametrize("route", ROUTES)
async def test_bodies_that_are_none(server, route):
    """All at once and good ones between them; a body is 400 or 404, whatever it is."""
    bad = {name: exchange(server.url, post(route, body)) for name, (body, _) in BODIES.items()}
    async with clients(server.url) as good:
        answers, outcomes = await asyncio.gather(
            asyncio.gather(*bad.values()), good.ask_all(asks.picture(seed) for seed in range(30))
        )
    assert {str(outcome) for outcome in outcomes} == {"answered 200"}
    for (name, (_, expected)), (answer, closed) in zip(BODIES.items(), answers, strict=True):
        assert closed, name
        status, code = status_and_code(answer)
        assert status in (400, 404), (name, status, code)
        assert expected in (None, code), (name, status, code)


LATENTS = {
    "empty": "[]",
    "ragged": "[[1,2,3,4],[1,2,3]]",
    "too deep for numpy": "[" * 70 + "1" + "]" * 70,
    "strings": '["a","b","c","d"]',
    "huge": "[1e39,0,0,0]",
    "a huge integer": "[" + "9" * 400 + ",0,0,0]",
    "true": "[true,0,0,0]",
    "too many": json.dumps([[0, 0, 0, 0]] * 65),
    "a hundred thousand": json.dumps([0] * 100_000),
}


@pytest.mark.parametrize("latents", LATENTS.values(), ids=LATENTS)
async def test_latents_that_are_none(server, latents):
    body = b'{"model":"poisoned","latents":%s}' % latents.encode()
    answer, closed = await exchange(server.url, post("/v1/images/generate", body))
    assert closed
    assert status_and_code(answer) == (400, "invalid_field")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"prompt": "a" * 900_000}, 400),
        ({"prompt": ["a"] * 65}, 400),
        ({"prompt": "a", "n": 64, "max_tokens": 10**9}, 400),
        ({"prompt": "a", "stop": ["x"] * 5}, 400),
        ({"prompt": "a", "stop": [""]}, 400),
        ({"prompt": "\U0001f600" * 600}, 400),
        ({"prompt": "a", "temperature": 1e-300, "max_tokens": 4}, 200),
        ({"prompt": "a", "temperature": 100, "top_p": 1e-300, "max_tokens": 4}, 200),
        ({"prompt": "a", "repetition_penalty": 0.01, "max_tokens": 4}, 200),
    ],
    ids=["long", "many", "tokens", "stops", "empty stop", "emoji", "cold", "narrow", "penalty"],
)
async def test_extremes_of_text(server, body, status):
    data = json.dumps({"model": "cycle", **body}).encode()
    answer, closed = await exchange(server.url, post("/v1/text/complete", data))
    assert closed
    assert int(answer.split()[1]) == status, answer[:2000]


SIZES = ({"n": 64, "scale": 64}, {"scale": 1_000_000}, {"interpolate": {"from_seed": 1, "to_seed": 2, "steps": 65}})


@pytest.mark.parametrize("body", SIZES, ids=["pixels", "scale", "steps"])
async def test_answers_that_would_be_too_large(server, body):
    data = json.dumps({"model": "wide", **body}).encode()
    answer, closed = await exchange(server.url, post("/v1/images/generate", data))
    assert closed
    assert status_and_code(answer) == (400, "invalid_field")


ROUTE = "/v1/images/generate"
CHUNKED = HEAD % ROUTE.encode() + b"Transfer-Encoding: chunked\r\n\r\n"
# What comes back: one of these statuses, or nothing but the end of the connection.
MESSAGES = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10, {400}),
    "no version": (b"GET /health/live\r\n\r\n", {200, 400}),  # as HTTP 0.9 had it
    "an unknown method": (b"BREW /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {400, 405}),
    "a negative length": (HEAD % ROUTE.encode() + b"Content-Length: -1\r\n\r\n{}", {400}),
    "a length in words": (HEAD % ROUTE.encode() + b"Content-Length: two\r\n\r\n{}", {400}),
    "two lengths": (HEAD % ROUTE.encode() + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", {400}),
    "a huge length": (HEAD % ROUTE.encode() + b"Content-Length: %d\r\n\r\n{}" % 10**18, {413}),
    "a length beyond 64 bits": (HEAD % ROUTE.encode() + b"Content-Length: %d\r\n\r\n{}" % 10**30, {400, 413}),
    "a length and chunks": (
        HEAD % ROUTE.encode() + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        {400},
    ),
    "a chunk of no size": (CHUNKED + b"xyz\r\n{}\r\n0\r\n\r\n", {400}),
    "a chunk of a huge size": (CHUNKED + b"ffffffffffffffffff\r\n{}\r\n0\r\n\r\n", {400, 413}),
    "chunks without end": (CHUNKED + b"10000\r\n" + b" " * 65536 + b"\r\n", {413, 408}),
    "a head of a megabyte": (b"GET /health/live HTTP/1.1\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n", {431}),
    "100,000 headers": (b"GET /health/live HTTP/1.1\r\n" + b"X: a\r\n" * 100_000 + b"\r\n", {431}),
    "a line without end": (b"GET /" + b"a" * (1 << 20), {431, 400, 414}),
    "a bad header": (b"GET /health/live HTTP/1.1\r\nHost: x\r\n: nameless\r\n\r\n", {400}),
    "a header with a line break": (b"GET /health/live HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n", {400}),
    "no UTF-8 in the path": (b"GET /v1/models/%ff%fe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {404}),
    "a walk up": (b"GET /v1/models/..%2f..%2fetc HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {404}),
    "a zero in the path": (b"GET /v1/models/a%00b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {404}),
    "an absolute target": (b"GET http://[::1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {400, 404}),
}


@pytest.mark.parametrize(("data", "statuses"), MESSAGES.values(), ids=MESSAGES)
async def test_messages_that_are_no_http(server, data, statuses):
    """Some of these must be recognised by their silence: the server gives the rest `READ_SECONDS` to come."""
    answer, closed = await exchange(server.url, data, patience=READ_SECONDS + 30)
    assert closed, "the connection is left open"
    assert not answer or int(answer.split()[1]) in statuses, answer[:500]


async def test_a_second_request_does_not_hide_in_the_first(server):
    """What follows a body of the declared length is a request of its own, and answered as that."""
    first = post(ROUTE, b'{"model":"poisoned","seed":1}').replace(b"Connection: close\r\n", b"")
    answer, closed = await exchange(server.url, first + post(ROUTE, b'{"model":"poisoned","seed":2}'))
    assert closed
    assert answer.count(b"HTTP/1.1 200") == 2
