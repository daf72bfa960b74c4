import json

import pytest

from benchmarks.text_stream import Recording, StreamError, read


def event(text="", usage=None, **fields):
    choices = [] if usage and not text else [{"index": 0, "text": text}]
    return b"data: " + json.dumps({"choices": choices, "usage": usage, **fields}).encode() + b"\n\n"


USAGE = {"prompt_tokens": 3, "completion_tokens": 6}
END = event(usage=USAGE) + b"data: [DONE]\n\n"


def recorded(*chunks):
    return Recording(10.0, [(10.0 + seconds, data) for seconds, data in chunks])


def test_times_are_those_of_the_chunk_that_ends_an_event():
    whole = event("ab")
    found = read(recorded((1, whole[:9]), (2, whole[9:] + event("cd")[:-1]), (3, b"\n: ping\n\n"), (4, END)))
    assert found.pieces == ((12.0, "ab"), (13.0, "cd"))
    assert (found.first, found.gaps) == (2.0, [1.0])
    assert (found.prompt_tokens, found.tokens) == (3, 6)


def test_the_wait_for_a_piece_is_shared_by_its_tokens():
    found = read(recorded((1, event("a")), (3, event("bcde")), (4, event("f") + END)))
    assert found.between(len) == [0.5] * 4 + [1.0]
    assert found.between(lambda _: 0) == [2.0, 1.0]  # there is no piece without a token


def test_usage_may_come_with_the_last_text_and_lines_may_end_otherwise():
    found = read(recorded((1, event("a").replace(b"\n", b"\r\n")), (2, event("b", USAGE))))
    assert [text for _, text in found.pieces] == ["a", "b"]


BAD = {
    "ends without a count": [(1, event("a"))],
    "ends without text": [(1, END)],
    "error event: .*overloaded": [(1, event("a")), (2, b'data: {"error": {"message": "overloaded"}}\n\n')],
    "not an event of a completion: b'<html>": [(1, b"data: <html>\n\n")],
    "not an event of a completion: b'{}'": [(1, b"data: {}\n\n")],
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_no_whole_completion_is_refused(message):
    with pytest.raises(StreamError, match=message):
        read(recorded(*BAD[message]))


def test_an_error_of_the_request_is_told():
    with pytest.raises(StreamError, match="status 400"):
        read(Recording(0.0, [(1.0, END)], "status 400: no"))
