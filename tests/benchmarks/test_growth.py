import http.server
import threading

import pytest

from benchmarks import growth
from benchmarks.crowd import Crowd, request
from benchmarks.server import ServerError


class Answering(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if body == b"{}" else 400)
        self.send_header("Content-Length", "200000")  # comes in several pieces
        self.end_headers()
        self.wfile.write(bytes(200_000))

    def log_message(self, *_):
        pass


@pytest.fixture
def port():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_burst_ends_when_every_answer_is_whole(port):
    with Crowd(port, 5) as crowd:
        for _ in range(2):  # nothing is left over for the next one
            took = crowd.burst(request("/", b"{}"))
            assert len(took) == 5
            assert took == sorted(took)


def test_a_closed_loop_waits_for_what_is_under_way(port):
    with Crowd(port, 2) as crowd:
        assert len(crowd.closed_loop([request("/", b"{}")], 0.05)) >= 2
        assert len(crowd.burst(request("/", b"{}"))) == 2


def test_an_answer_that_is_not_200_ends_the_measurement(port):
    with Crowd(port, 1) as crowd, pytest.raises(ServerError, match="400"):
        crowd.burst(request("/", b"other"))


def test_growth_is_the_exponent_between_the_two_largest_sizes():
    rows = [{"depth": size, "all_seconds": cost} for size, cost in ((1, 5.0), (10, 7.0), (100, 700.0))]
    assert growth.exponent(rows, "depth", "all_seconds") == pytest.approx(2)
    assert "all_seconds ~ depth^2.00" in growth.growth("departures", rows)
    assert growth.growth("idle", rows) == ""


def test_sizes_have_the_parameters_that_they_are_named_for():
    for name, channels in growth.SIZES.items():
        assert growth.parameters(channels) == pytest.approx(float(name.removesuffix("M")) * 1e6, rel=0.03)
