"""Server-sent events to times and tokens."""

import json

import pytest

from app.bench.stream import Stream

LAST = {"index": 0, "text": "c", "finish_reason": "length", "usage": {"completion_tokens": 5}}


def event(data):
    return f"data: {json.dumps(data)}\n\n".encode()


def test_pieces_are_timed_and_tokens_counted():
    stream = Stream(10.0)
    stream.feed(b": ping\n\n", 10.5)
    stream.feed(event({"index": 0, "text": "a"}), 11.0)
    stream.feed(event({"index": 0, "text": ""}), 12.0)
    stream.feed(event(LAST) + b"data: [DONE]\n\n", 13.0)
    assert stream.done
    assert (stream.first, stream.between, stream.tokens) == (1.0, 0.5, 5)
    assert stream.rate == pytest.approx(5 / 3)
    assert [stream.tokens_until(moment) for moment in (10.9, 11.0, 12.9, 13.0)] == [0, 2.5, 2.5, 5]


def test_events_may_be_cut_anywhere():
    data, stream = event({"index": 0, "text": "é"}) + event(LAST) + b"data: [DONE]\n\n", Stream(0.0)
    for i in range(len(data)):
        stream.feed(data[i : i + 1], float(i))
    assert (len(stream.pieces), stream.tokens, stream.done) == (2, 5, True)


def test_an_error_event_is_no_end():
    stream = Stream(0.0)
    stream.feed(b'event: error\ndata: {"code": "worker_died"}\n\n', 1.0)
    assert not stream.done
    assert not stream.pieces


def test_a_text_of_nothing_has_no_times():
    stream = Stream(0.0)
    stream.feed(event({"index": 0, "text": "", "usage": {"completion_tokens": 0}}) + b"data: [DONE]\n\n", 1.0)
    assert stream.done
    assert (stream.first, stream.between, stream.rate, stream.tokens_until(9.0)) == (None, None, None, 0.0)


@pytest.mark.parametrize(
    "data", [b"data: nonsense\n\n", b"data: 7\n\n", b"data: {}\n\n", b'data: {"text": "a", "usage": {}}\n\n']
)
def test_what_is_no_text_is_an_error(data):
    with pytest.raises(ValueError, match=r".+"):
        Stream(0.0).feed(data, 0.0)
