"""The table and what stands under it."""

from dataclasses import replace

from app.bench.report import Row, document, notes, table
from app.bench.result import TextResult
from app.bench.target import picture, text
from tests.app.bench.test_result import RESULT

GAN, GPT = picture("http://x", "gan", "d1"), text("http://x", "a-model-with-a-long-name", "d2")
CLOSED = replace(RESULT, mode="closed", client="wrk", offered=None, clients=1, refused=0, failed=0)
TEXT = TextResult(
    **{**vars(RESULT), "clients": 2}, tokens_per_second=1234.5, stream_tokens_per_second=60.0, first_p50=0.01,
    first_p99=0.02, between_p50=0.003, between_p99=0.004,
)  # fmt: skip
ROWS = [Row(GAN, CLOSED), Row(GAN, RESULT, 0.8), Row(GPT, TEXT)]


def test_one_line_a_load():
    lines = table(ROWS).splitlines()
    assert len(lines) == 2 + len(ROWS)
    assert len({len(line) for line in lines}) == 1
    assert " ".join(lines[2].split()) == "gan 1 client 2.0 req/s 100.0 ms 300.0 ms 0 0 50%"
    assert " ".join(lines[3].split()) == "gan open, 0.8 x best: 9.0/s 2.0 req/s 100.0 ms 300.0 ms 1 2 50%"
    assert lines[4].split()[:5] == ["a-model-with-a-long-name", "2", "streams", "1,234.5", "tokens/s"]


def test_texts_have_a_line_of_their_own():
    (line,) = notes([ROWS[2]])
    assert "first text after 10.0 ms (p99 20.0 ms), then 3.0 ms a token (p99 4.0 ms); 60.0 tokens/s a stream" in line
    nothing = replace(TEXT, first_p50=None, stream_tokens_per_second=None)
    assert "after - (p99" in notes([Row(GPT, nothing)])[0]


def test_a_busy_client_and_doubtful_figures_are_named():
    assert notes(ROWS[:2]) == []
    busy, empty = replace(CLOSED, client_cpu_seconds=4.8), replace(CLOSED, answered=0, in_time=0, p50=None, p99=None)
    assert notes([Row(GAN, busy)]) == ["gan, 1 client: the client took 96% of a core; the figure is a lower bound"]
    assert notes([Row(GAN, empty)]) == ["gan, 1 client: nothing was answered"]
    assert "   - " in table([Row(GAN, empty)])
    assert "latencies are those of all answers" in notes([Row(GAN, replace(CLOSED, refused=3))])[0]


def test_the_document_holds_all():
    found = document(ROWS, url="http://x")
    assert found["url"] == "http://x"
    assert [row["model"] for row in found["results"]] == ["gan", "gan", "a-model-with-a-long-name"]
    assert found["results"][1] | {"share": 0.8, "throughput": 2.0, "digest": "d1", "p99": 0.3} == found["results"][1]
    assert found["results"][2]["tokens_per_second"] == 1234.5
