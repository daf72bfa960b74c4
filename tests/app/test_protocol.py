"""One connection and its limits: in this process, piece by piece; and over real sockets, on uvloop."""

import asyncio
import contextlib
import functools
import gc
import io
import json
import threading
import time
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from uvicorn.server import ServerState

from app import codecs
from app.limits import Limits, Sweep
from app.protocol import STEP_BYTES, Protocol
from app.routes.connection import CLOSING, ClientLeft, Departure, Watch
from tests.listening import Client, listening, request
from tests.serving import PATIENCE, eventually, wait_until

HEADER = 1024
QUICK = 0.3  # seconds: of the limit that a test runs into


class Application:
    """Answers of all kinds, and what it has seen of its clients; on another thread than the test, or on the same."""

    def __init__(self):
        self.app = FastAPI()
        self.release, self.begun, self.left = threading.Event(), threading.Event(), threading.Event()
        self.produced = 0
        self.app.add_api_route("/number/{number}", self.number)
        self.app.add_api_route("/size", self.size, methods=["POST"])
        self.app.add_api_route("/lazy", self.lazy, methods=["POST"])
        self.app.add_api_route("/early", self.early, methods=["POST"])
        self.app.add_api_route("/wait", self.wait)
        self.app.add_api_route("/late", self.late)
        self.app.add_api_route("/listen", self.listen)
        self.app.add_api_route("/endless", self.endless)
        self.app.add_api_route("/zip", self.zip)

    async def number(self, number: int):
        await asyncio.sleep(0.001 * (number % 3))  # the later ones would be ready first
        return {"number": number}

    async def size(self, request: Request):
        """Reads its body at once."""
        self.begun.set()
        try:
            return {"size": len(await request.body())}
        except ClientDisconnect:
            self.left.set()
            raise

    async def lazy(self, request: Request):
        """Reads its body when it likes."""
        await self._released()
        return {"size": len(await request.body())}

    async def early(self):
        """Answers without the body, and goes on."""

        async def body():
            yield b"begun"
            self.begun.set()
            await self._released()

        return StreamingResponse(body())

    async def wait(self, request: Request):
        """Computes."""
        leave = self.left.set
        request.scope["extensions"][CLOSING].add(leave)
        self.begun.set()
        await self._released()
        request.scope["extensions"][CLOSING].discard(leave)
        return {"waited": True}

    async def late(self, request: Request):
        """Asks only after a while whether its client is still there, and waits for something that never comes."""
        self.begun.set()
        await self._released()
        try:
            await Watch(request)(asyncio.get_running_loop().create_future())
        except ClientLeft:
            self.left.set()
            raise

    async def listen(self, request: Request):
        """Does nothing until the client leaves, as any ASGI server would tell it."""
        while (await request.receive())["type"] != "http.disconnect":
            self.begun.set()
        self.left.set()
        return {}

    async def endless(self, request: Request):
        """As much as anybody takes, in one turn if they let it; up to 256 MiB, so that a fault fails the test alone."""
        request.scope["extensions"][CLOSING].add(self.left.set)

        async def body():
            while self.produced < 1 << 28 and not self.left.is_set():
                yield bytes(1000)
                self.produced += 1000

        return StreamingResponse(body())

    async def zip(self):
        noise = np.random.default_rng(0)
        return Response(codecs.archive((f"{i}.bin", noise.bytes(1 << 20)) for i in range(8)))

    async def _released(self):
        while not self.release.is_set():  # noqa: ASYNC110  # set by another thread
            await asyncio.sleep(0.005)


@pytest.fixture
def application():
    application = Application()
    yield application
    application.release.set()


@pytest.fixture
def served(application):
    """`served(**limits)`: the application behind the real server; gives its address."""
    with contextlib.ExitStack() as stack:

        def serve(**limits):
            address = stack.enter_context(listening(application.app, **limits))
            stack.callback(application.release.set)  # before the server's end, which waits for answers
            return address

        yield serve


class Transport:
    """Keeps what is written to it, write by write; takes all, or nothing."""

    def __init__(self):
        self.writes, self.waiting, self.reading = [], 0, True
        self.closed = self.ended = self.aborted = False

    def write(self, data):
        assert not self.closed
        assert not self.ended
        self.writes.append(bytes(data))

    def write_eof(self):
        self.ended = True

    def close(self):
        self.closed = True

    def abort(self):
        self.closed = self.aborted = True

    def is_closing(self):
        return self.closed

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True

    def get_write_buffer_size(self):
        return self.waiting

    def get_extra_info(self, name, default=None):
        return default

    @property
    def statuses(self):
        """Of all answers."""
        return [int(part[:3]) for part in b"".join(self.writes).split(b"HTTP/1.1 ")[1:]]


def connection(application, **limits):
    """A connection without a network: its protocol, its transport, its sweep."""
    sweep = Sweep(Limits(**{"max_header": HEADER, **limits}))
    config = uvicorn.Config(application.app, http=functools.partial(Protocol, sweep), ws="none", log_config=None)
    config.load()
    protocol, transport = config.http_protocol_class(config, ServerState(), {}), Transport()
    protocol.connection_made(transport)
    sweep._timer.cancel()  # time passes in `pass_time`
    return protocol, transport, sweep


def feed(protocol, data, size):
    """In pieces of that size, until it is refused."""
    for start in range(0, len(data), size):
        protocol.data_received(data[start : start + size])


def pass_time(protocol, sweep, count):
    """So many sweeps, in no time."""
    for _ in range(count):
        sweep.now += 1
        protocol.check()


def padded(size, path="/number/1", extra=b"", method="GET"):
    """A head of exactly so many bytes."""
    short = request(path, extra + b"X-Padding: \r\n", method)
    head = request(path, extra + b"X-Padding: %b\r\n" % (b"x" * (size - len(short))), method)
    assert len(head) == size
    return head


def chunked(size, trailer=b""):
    return b"%x\r\n%b\r\n0\r\n%b\r\n" % (size, b"x" * size, trailer)


CHUNKED = b"Transfer-Encoding: chunked\r\n"


# one write an answer, in order


@pytest.mark.parametrize("close", [False, True])
async def test_head_and_body_of_an_answer_are_one_write(application, close):
    protocol, transport, _ = connection(application)
    for number in (1, 2):
        extra = b"Connection: close\r\n" if close and number == 2 else b""
        protocol.data_received(request(f"/number/{number}", extra))
        await eventually(lambda number=number: len(transport.writes) == number)
    for number, answer in enumerate(transport.writes, 1):
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b'\r\n\r\n{"number":%d}' % number)
    assert transport.closed == close
    protocol.connection_lost(None)


@pytest.mark.parametrize("count", [30, 3000])
def test_pipelined_requests_are_answered_in_order(served, count):
    with Client(served()) as client:
        requests = b"".join(request(f"/number/{number}") for number in range(count))
        sender = threading.Thread(target=client.send, args=(requests,))
        sender.start()
        for number in range(count):
            status, _, body = client.answer()
            assert (status, json.loads(body)) == (200, {"number": number})
        sender.join(PATIENCE)


@pytest.mark.parametrize("size", [1, 1000, STEP_BYTES, STEP_BYTES + 1, 1 << 18])
async def test_what_is_pipelined_is_bounded(application, size):
    """However it comes, and though the application asks for more: few are parsed ahead, and all are answered."""
    protocol, transport, _ = connection(application, max_header=1 << 15)
    small, count, most = request("/number/0"), 400, 0
    feed(protocol, small * count, size)
    assert not transport.reading
    most = len(protocol.pipeline)
    protocol.flow.resume_reading()  # what an application does that looks whether its client is there
    protocol.data_received(small)
    assert not transport.reading
    assert len(protocol.pipeline) == most
    await eventually(lambda: len(transport.statuses) == count + 1)
    assert set(transport.statuses) == {200}
    assert most <= STEP_BYTES / len(small) if size >= STEP_BYTES else most <= max(1, size / len(small) + 1)
    assert transport.reading
    protocol.connection_lost(None)


def test_requests_with_bodies_are_pipelined_too(served):
    with Client(served()) as client:
        for size in (0, 5, 100_000, 17):
            client.send(request("/size", b"Content-Length: %d\r\n" % size, "POST") + bytes(size))
            client.send(request("/size", CHUNKED, "POST") + chunked(size + 1))
        for size in (0, 5, 100_000, 17):
            assert json.loads(client.answer()[2]) == {"size": size}
            assert json.loads(client.answer()[2]) == {"size": size + 1}


def test_events_leave_one_by_one(application, served):
    host, port = served()
    with httpx.stream("POST", f"http://{host}:{port}/early", timeout=PATIENCE) as response:
        parts = response.iter_raw()
        assert next(parts) == b"begun", "while it is not over yet"
        application.release.set()
        assert list(parts) == []


def test_a_slow_reader_gets_all_of_a_large_archive(served):
    """Megabytes beyond what the sockets hold: they wait in the server, in order."""
    with Client(served(), receive_buffer=4096) as client:
        client.get("/zip", b"Connection: close\r\n")
        content = client.answer()[2]
        assert client.rest() == b""
    noise = np.random.default_rng(0)
    with zipfile.ZipFile(io.BytesIO(content)) as bundle:
        assert [bundle.read(f"{i}.bin") for i in range(8)] == [noise.bytes(1 << 20) for _ in range(8)]


def test_an_upgrade_that_nobody_offers_is_plain_http(served):
    """curl --http2 asks for it, and goes on in HTTP/1.1 when it gets no answer to that."""
    upgrade = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
    with Client(served()) as client:
        client.send(request("/number/1", upgrade) + request("/number/2"))
        assert [json.loads(client.answer()[2]) for _ in range(2)] == [{"number": 1}, {"number": 2}]
        client.get("/number/3", upgrade)
        assert json.loads(client.answer()[2]) == {"number": 3}


@pytest.mark.parametrize("name", [b"Upgrade: h2c", b"upgrade:h2c ", b"UPGRADE:\tH2C".replace(b"H2C", b"h2c")])
def test_a_body_is_read_beside_an_offer_of_http_2(served, name):
    """As Java's client sends it."""
    headers = b"Connection: Upgrade, HTTP2-Settings\r\n%b\r\nHTTP2-Settings: AAEAAEAA\r\nContent-Length: 28\r\n" % name
    with Client(served()) as client:
        for _ in range(2):
            client.send(request("/size", headers, "POST") + b"\r\nUpgrade: h2c\r\n in the body")
            assert json.loads(client.answer()[2]) == {"size": 28}


# large heads


@pytest.mark.parametrize("one_more", [0, 1])
def test_the_limit_of_a_head_is_exact(served, one_more):
    with Client(served(max_header=HEADER)) as client:
        for _ in range(2):  # the second request of a connection is as good as the first
            client.send(padded(HEADER))
            assert client.answer()[0] == 200
        client.send(padded(HEADER + one_more))
        if one_more:
            assert client.problem() == (431, "headers_too_large")
        else:
            assert client.answer()[0] == 200


@pytest.mark.parametrize(
    "before", [b"", padded(HEADER), request("/size", b"Content-Length: 3000\r\n", "POST") + bytes(3000)]
)
@pytest.mark.parametrize("piece", [1, 7, HEADER - 1, HEADER, HEADER + 1, 10_000])
@pytest.mark.parametrize("one_more", [0, 1])
async def test_it_does_not_matter_how_a_head_comes(application, before, piece, one_more):
    protocol, transport, _ = connection(application)
    answers = bool(before)
    feed(protocol, before, piece)
    await eventually(lambda: len(transport.statuses) == answers)
    feed(protocol, padded(HEADER + one_more), piece)
    await eventually(lambda: len(transport.statuses) == answers + 1)
    assert transport.statuses[-1] == (431 if one_more else 200)
    assert transport.ended == bool(one_more)
    protocol.connection_lost(None)


@pytest.mark.parametrize("piece", [1, HEADER, 1 << 20])
@pytest.mark.parametrize("size", [5, 10 * HEADER])
async def test_a_body_is_no_part_of_the_head(application, size, piece):
    protocol, transport, _ = connection(application)
    for number in (1, 2):
        head = padded(HEADER, "/size", b"Content-Length: %d\r\n" % size, "POST")
        feed(protocol, head + bytes(size), piece)
        await eventually(lambda number=number: len(transport.statuses) == number)
    assert transport.statuses == [200, 200]
    protocol.connection_lost(None)


@pytest.mark.parametrize("piece", [1, 1000, 1 << 20])
@pytest.mark.parametrize(
    "endless",
    [
        request("/" + "x" * (1 << 17)),
        request("/number/1", b"X: " + bytes([32]) * (1 << 17) + b"\r\n"),
        request("/number/1", b"a:\r\n" * (1 << 15)),
        b"\r\n" * (1 << 16) + request("/number/1"),
        request("/size", CHUNKED, "POST") + chunked(9, b"X: " + b"x" * (1 << 17) + b"\r\n"),
        request("/size", CHUNKED, "POST") + chunked(9, b"a: b\r\n" * (1 << 14)),
        request("/size", CHUNKED, "POST") + b"5;" + b"x" * (1 << 17) + b"\r\n",
    ],
    ids=["url", "spaces", "headers", "lines", "trailer", "trailers", "extension"],
)
async def test_no_part_of_a_request_but_its_body_is_endless(application, endless, piece):
    """What is not a body is refused, a step behind its limit at most; the rest is not kept."""
    protocol, transport, _ = connection(application, max_header=8192)
    feed(protocol, endless, piece)
    await eventually(lambda: transport.statuses)
    assert transport.statuses == [431]
    assert transport.ended
    assert (protocol._ahead, protocol.pipeline) == (b"", protocol.pipeline.__class__())
    protocol.connection_lost(None)


def test_trailers_within_the_limit_are_fine(served):
    with Client(served(max_header=HEADER)) as client:
        for _ in range(2):
            client.send(request("/size", CHUNKED, "POST") + chunked(100_000, b"X: y\r\n" * 50))
            assert json.loads(client.answer()[2]) == {"size": 100_000}


@pytest.mark.parametrize("busy", [False, True])
async def test_no_request_at_all_may_be_long_either(application, busy):
    """Line ends without end, behind a request that is answered or will be."""
    protocol, transport, _ = connection(application)
    protocol.data_received(request("/wait"))
    if not busy:
        application.release.set()
        await eventually(lambda: transport.statuses == [200])
    feed(protocol, b"\r\n" * HEADER, 100)
    assert transport.statuses == ([] if busy else [200, 431])
    application.release.set()
    await eventually(lambda: transport.statuses == [200, 431])
    protocol.connection_lost(None)


def test_large_heads_among_pipelined_requests(served):
    """A head behind another request may be a step larger, never smaller; what came before is answered."""
    with Client(served(max_header=8192)) as client:
        client.send(request("/number/1") + padded(8192, "/number/2") + padded(8192 + STEP_BYTES + 1))
        assert [json.loads(client.answer()[2]) for _ in range(2)] == [{"number": 1}, {"number": 2}]
        assert client.problem() == (431, "headers_too_large")


def test_a_refused_client_may_still_be_sending(served):
    """The answer is there for it to read, although it has sent megabytes by then that nobody reads."""
    with Client(served(max_header=HEADER)) as client:
        with contextlib.suppress(ConnectionError):  # or else the server has lost its patience
            client.send(padded(2 << 20))
        assert client.problem() == (431, "headers_too_large")


def test_a_refused_client_that_stays_is_closed(served):
    with Client(served(max_header=HEADER, read_timeout=QUICK)) as client:
        client.send(padded(2 * HEADER))
        assert client.answer()[0] == 431
        with contextlib.suppress(ConnectionError):
            wait_until(lambda: client.send(b"x"), "it may go on for ever")  # `None` until it raises


# nonsense


@pytest.mark.parametrize(
    "nonsense", [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"]
)
def test_nonsense_is_a_problem(served, nonsense):
    address = served()
    with Client(address) as client:
        client.send(nonsense)
        assert client.problem() == (400, "invalid_http")
    with Client(address) as client:
        client.get("/number/1")
        assert client.answer()[0] == 200
        client.send(nonsense)
        assert client.problem() == (400, "invalid_http")


@pytest.mark.parametrize("waiting", [0, 3])
def test_nonsense_behind_a_request_waits_for_its_answer(application, served, waiting):
    """The first answer is the first request's."""
    with Client(served()) as client:
        client.send(request("/wait") + b"".join(request(f"/number/{number}") for number in range(waiting)))
        wait_until(application.begun.is_set, "it does not begin")
        client.send(b"\x00nonsense")
        time.sleep(0.05)  # so that it has come, most probably; the answer is the same if not
        application.release.set()
        status, _, body = client.answer()
        assert (status, json.loads(body)) == (200, {"waited": True})
        for number in range(waiting):
            assert json.loads(client.answer()[2]) == {"number": number}
        assert client.problem() == (400, "invalid_http")


def test_nonsense_in_a_body(application, served):
    with Client(served()) as client:
        client.send(request("/size", CHUNKED, "POST") + b"5\r\nabcde\r\n")
        wait_until(application.begun.is_set, "it does not begin")
        client.send(b"nonsense\r\n")
        assert client.problem() == (400, "invalid_http")
        assert application.left.wait(PATIENCE)


def test_nonsense_in_a_body_that_waits(application, served):
    """What is whole and came before is answered, each in its turn."""
    broken = request("/size", CHUNKED, "POST") + b"5\r\nabcde\r\nnonsense\r\n"
    with Client(served()) as client:
        client.send(request("/wait") + request("/number/1") + broken + request("/number/2"))
        wait_until(application.begun.is_set, "it does not begin")
        application.release.set()
        assert json.loads(client.answer()[2]) == {"waited": True}
        assert json.loads(client.answer()[2]) == {"number": 1}
        assert client.problem() == (400, "invalid_http")


# clients that send slowly


@pytest.mark.parametrize(
    "part",
    [
        b"G",
        request("/number/1")[:-2],
        request("/size", b"Content-Length: 5\r\n", "POST"),
        request("/size", b"Content-Length: 5\r\n", "POST") + b"abcd",
        request("/size", CHUNKED, "POST") + b"5\r\nabcde\r\n",
    ],
    ids=["byte", "head", "no body", "body", "chunks"],
)
@pytest.mark.parametrize("second", [False, True], ids=["first", "second"])
def test_half_a_request_is_given_up(served, part, second):
    with Client(served(read_timeout=QUICK)) as client:
        if second:
            client.get("/number/1")
            assert client.answer()[0] == 200
        client.send(part)
        assert client.problem() == (408, "request_timeout")


def test_the_application_learns_that_a_body_will_not_come(application, served):
    with Client(served(read_timeout=QUICK)) as client:
        client.send(request("/size", b"Content-Length: 5\r\n", "POST") + b"abcd")
        assert client.problem() == (408, "request_timeout")
        assert application.left.wait(PATIENCE)


@pytest.mark.parametrize(
    "head", [b"GET /", request("/size", b"Content-Length: 1000000\r\n", "POST")], ids=["head", "body"]
)
def test_a_trickle_does_not_help(served, head):
    with Client(served(read_timeout=QUICK)) as client:
        client.send(head)
        stop = threading.Event()

        def trickle():
            with contextlib.suppress(OSError):
                while not stop.wait(0.01):
                    client.send(b"x")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert client.problem() == (408, "request_timeout")
        finally:
            stop.set()
            thread.join(PATIENCE)


def test_what_has_begun_is_cut_off_without_another_answer(application, served):
    with Client(served(read_timeout=QUICK)) as client:
        client.send(request("/early", b"Content-Length: 5\r\n", "POST") + b"abcd")
        rest = client.rest()
    assert rest.startswith(b"HTTP/1.1 200 OK")
    assert rest.endswith(b"\r\n\r\n5\r\nbegun\r\n")
    assert rest.count(b"HTTP/1.1") == 1


def test_what_is_answered_before_its_body_is_cut_off_too(application, served):
    application.release.set()
    with Client(served(read_timeout=QUICK)) as client:
        client.send(request("/early", b"Content-Length: 5\r\n", "POST") + b"abcd")
        rest = client.rest()
    assert rest.endswith(b"\r\n\r\n5\r\nbegun\r\n0\r\n\r\n")
    assert rest.count(b"HTTP/1.1") == 1


def test_computing_may_take_long(application, served):
    with Client(served(read_timeout=QUICK, write_timeout=QUICK, keep_alive=QUICK)) as client:
        client.get("/wait")
        threading.Timer(4 * QUICK, application.release.set).start()
        assert json.loads(client.answer()[2]) == {"waited": True}


async def test_a_slow_application_is_not_the_client_s_fault(application):
    """Time in which nobody reads what it sends does not count."""
    protocol, transport, sweep = connection(application)
    body = bytes(200_000)
    protocol.data_received(request("/lazy", b"Content-Length: %d\r\n" % len(body), "POST") + body[:100_000])
    assert not transport.reading
    pass_time(protocol, sweep, 3 * sweep.read)
    application.release.set()
    await eventually(lambda: transport.reading)
    protocol.data_received(body[100_000:])
    await eventually(lambda: transport.statuses == [200])
    protocol.connection_lost(None)


@pytest.mark.parametrize("part", [3, 20, -3])
async def test_the_next_request_has_its_time_after_the_answer(application, part):
    """Half of it came early; nobody would have read the rest."""
    protocol, transport, sweep = connection(application)
    following = request("/size", b"Content-Length: 5\r\n", "POST") + b"abcde"
    protocol.data_received(request("/wait") + following[:part])
    await eventually(application.begun.is_set)
    pass_time(protocol, sweep, 3 * sweep.read)
    application.release.set()
    await eventually(lambda: transport.statuses == [200])
    pass_time(protocol, sweep, sweep.read - 1)
    assert transport.statuses == [200]
    protocol.data_received(following[part:])
    await eventually(lambda: transport.statuses == [200, 200])
    assert not transport.ended
    protocol.connection_lost(None)


@pytest.mark.parametrize("part", [3, 20, -3])
async def test_but_no_more_than_its_time(application, part):
    protocol, transport, sweep = connection(application)
    protocol.data_received(request("/wait") + request("/size", b"Content-Length: 5\r\n", "POST")[:part])
    application.release.set()
    await eventually(lambda: transport.statuses == [200])
    pass_time(protocol, sweep, sweep.read)
    assert transport.statuses == [200, 408]
    protocol.connection_lost(None)


# clients that send nothing


def test_a_connection_without_a_request_is_closed(served):
    with Client(served(keep_alive=QUICK)) as client:
        assert client.rest() == b""


@pytest.mark.parametrize("stray", [b"", b"\r\n"])
def test_an_idle_connection_is_closed(served, stray):
    """Without an answer; a stray line end, as old clients send it behind a body, is not a request."""
    with Client(served(keep_alive=QUICK)) as client:
        client.get("/number/1")
        assert client.answer()[0] == 200
        client.send(stray)
        assert client.rest() == b""


def test_a_connection_in_use_stays(served):
    """For longer than any of its parts may take."""
    with Client(served(read_timeout=QUICK, write_timeout=QUICK)) as client:
        end, number = time.monotonic() + 4 * QUICK, 0
        while time.monotonic() < end:
            client.get(f"/number/{number}")
            assert json.loads(client.answer()[2]) == {"number": number}
            number += 1
            time.sleep(QUICK / 10)
        time.sleep(2 * QUICK)
        client.get("/number/1")
        assert client.answer()[0] == 200


# clients that take nothing


def test_who_takes_nothing_is_cut_off(application, served):
    """A body without end, written in one turn of the loop if nothing stops it."""
    with Client(served(write_timeout=QUICK), receive_buffer=4096) as client:
        client.get("/endless")
        assert application.left.wait(PATIENCE), "the application goes on"
        assert application.produced < 1 << 25, "more than sockets hold"
        assert b"\r\n0\r\n\r\n" not in client.rest()[-7:]


def test_who_takes_nothing_of_a_whole_answer_is_cut_off(application, served):
    """The application is done long before; the connection is idle, or even closing."""
    address = served(write_timeout=QUICK)
    for extra in (b"", b"Connection: close\r\n"):
        with Client(address, receive_buffer=4096) as client:
            ports = [f"{name[1]:04X}" for name in (client.socket.getpeername(), client.socket.getsockname())]
            client.get("/zip", extra)
            client.get("/wait")
            wait_until(lambda ports=ports: _state(*ports) != ESTABLISHED, "it is never closed")
            assert len(client.rest()) < 8 << 20


ESTABLISHED = "01"


def _state(*ports):
    """Of the connection from one port to another, as the kernel's table has it; None when there is none."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if tuple(address.split(":")[1] for address in fields[1:3]) == ports:
            return fields[3]
    return None


async def test_who_takes_a_little_now_and_then_stays(application):
    """Progress counts, however small, though more is written than taken; only standing still does not."""
    protocol, transport, sweep = connection(application)
    taken = 0
    protocol.transport.taken = lambda: taken
    transport.waiting = 1 << 20
    for _ in range(20):
        pass_time(protocol, sweep, sweep.write - 1)
        assert not transport.aborted
        transport.waiting += 10
        taken += 1
    pass_time(protocol, sweep, sweep.write + 1)
    assert transport.aborted
    protocol.connection_lost(None)


async def test_waiting_begins_anew_with_each_answer(application):
    protocol, transport, sweep = connection(application)
    protocol.transport.taken = lambda: 7
    for _ in range(5):
        transport.waiting = 1
        pass_time(protocol, sweep, sweep.write)
        transport.waiting = 0
        pass_time(protocol, sweep, 1)
    assert not transport.aborted
    protocol.connection_lost(None)


# clients that leave


def test_leaving_is_told(application, served):
    with Client(served()) as client:
        client.get("/wait")
        wait_until(application.begun.is_set, "it does not begin")
    assert application.left.wait(PATIENCE)


def test_leaving_is_told_to_who_asks_afterwards(application, served):
    """A request may do something else at first; what it then waits for, nobody wants any more."""
    with Client(served()) as client:
        client.get("/late")
        wait_until(application.begun.is_set, "it does not begin")
        (connection,) = [one for one in gc.get_objects() if type(one) is Departure]
    wait_until(lambda: connection._over, "the server does not see it")
    application.release.set()
    assert application.left.wait(PATIENCE)


async def test_what_is_made_is_given_up_even_before_it_begins():
    """Its coroutine is never entered when the client has left by then, and closes nothing itself."""
    closed, departure = [], Departure()

    class Making:
        async def whole(self):
            await asyncio.get_running_loop().create_future()

        def close(self):
            closed.append(True)

    departure.come()
    with pytest.raises(ClientLeft):
        await Watch(Request({"type": "http", "extensions": {CLOSING: departure}})).whole(Making())
    assert closed == [True]


def test_leaving_is_told_to_the_request_that_runs(application, served):
    """Not only to the one that came last: it may not have begun, and the stream before it would never end."""
    with Client(served()) as client:
        client.send(request("/listen") + request("/number/1"))
        wait_until(application.begun.is_set, "it does not begin")
    assert application.left.wait(PATIENCE)


def test_nothing_is_left_of_a_connection(application, served):
    """However it ends: no callback, no queue, no cycle keeps it."""
    address = served(read_timeout=QUICK, keep_alive=QUICK, max_header=HEADER)
    for data in (b"", b"G", request("/number/1"), padded(2 * HEADER), b"\x00", request("/number/1") * 100 + b"G"):
        with Client(address) as client:
            client.send(data)
            client.rest()

    def left():
        gc.collect()
        return [o for o in gc.get_objects() if type(o) is Protocol]

    wait_until(lambda: not left(), "connections stay in memory")


# too many clients


def test_there_is_room_for_so_many_and_no_more(served, caplog):
    address = served(max_connections=3, read_timeout=QUICK)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(address)) for _ in range(3)]
        for number, client in enumerate(clients):
            client.get(f"/number/{number}")
            assert client.answer()[0] == 200
        for _ in range(20):
            with Client(address) as client:
                assert client.rest() == b""
        for number, client in enumerate(clients):
            client.get(f"/number/{number}")
            assert json.loads(client.answer()[2]) == {"number": number}
        clients[0].socket.close()

        def room():
            with Client(address) as client, contextlib.suppress(OSError, AssertionError):
                client.get("/number/9")
                return client.answer()[0] == 200

        wait_until(room, "the place of one that left stays taken")
    told = "connections closed at once: max_connections is 3"
    wait_until(lambda: any(told in message for message in caplog.messages), "nobody is told")


def test_an_unlimited_crowd_does_no_harm(served):
    """Many that say nothing; who was there before is served."""
    address = served(max_connections=50)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Client(address))
        first.get("/number/1")
        assert first.answer()[0] == 200
        for _ in range(200):
            stack.enter_context(Client(address))
        first.get("/number/2")
        assert first.answer()[0] == 200


# the end


async def test_at_the_end_half_a_request_is_told_so(application):
    for part in (b"G", request("/size", b"Content-Length: 5\r\n", "POST") + b"abcd"):
        protocol, transport, _ = connection(application)
        protocol.data_received(part)
        await asyncio.sleep(0)
        protocol.shutdown()
        await eventually(lambda transport=transport: transport.statuses == [503])
        assert b'"code":"draining"' in transport.writes[-1]
        assert transport.ended
        protocol.connection_lost(None)


async def test_at_the_end_idle_connections_close_and_busy_ones_answer(application):
    idle, transport, _ = connection(application)
    idle.shutdown()
    assert transport.closed
    idle.connection_lost(None)
    busy, transport, _ = connection(application)
    busy.data_received(request("/wait") + b"GET /half")
    await eventually(application.begun.is_set)
    busy.shutdown()
    assert not transport.closed
    application.release.set()
    await eventually(lambda: transport.closed)
    assert transport.statuses == [200]
    assert b"connection: close" in transport.writes[0]
    busy.connection_lost(None)
