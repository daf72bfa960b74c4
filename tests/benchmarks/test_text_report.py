import pytest

from benchmarks import text_report


def load(rate, first=0.1):
    rates = [rate * factor for factor in (0.5, 1.0, 1.4)]
    waits = {name: [first] * 3 for name in ("first_p50", "first_p99", "between_p50", "between_p99")}
    return {"tokens_per_second": rates, "failed": [0, 0, 1], **waits}


def server(precision, *rates, first=0.1, resident=600, start=2.0):
    loads = {count: load(rate, first) for count, rate in zip(("1", "16"), rates, strict=True)}
    return {
        "precision": precision,
        "loads": loads,
        "first_seconds": [start] * 3,
        "resident": [resident * text_report.MIB] * 3,
    }


@pytest.fixture
def run():
    servers = {
        "genserve bf16": server("bf16", 100, 500, resident=900),
        "genserve int4": server("int4", 180, 600, first=0.5, start=4.0),
        "llama.cpp BF16": server("bf16", 110, 400, resident=500),
        "llama.cpp Q4_0": server("int4", 190, 700, first=0.4),
        "transformers bf16": server("bf16", 40, 250),
    }
    return {"clients": ["1", "16"], "servers": servers, "raw": {"genserve bf16": {"16": [500.0, 600.0, 700.0]}}}


def test_the_middle_of_the_rounds_counts(run):
    assert text_report.rate(run["servers"]["genserve int4"], "16") == 600
    assert text_report.middle({"first_p50": [None, None]}, "first_p50") == float("inf")


def test_each_gate_compares_with_the_best_of_the_same_precision(run):
    said = [str(verdict) for verdict in text_report.verdicts(run)]
    assert said == [
        "  pass  gate: the best peer in bf16, 1 clients, at least 0.9: 0.91 (genserve bf16 / llama.cpp BF16)",
        "  pass  gate: the best peer in bf16, 16 clients, at least 0.9: 1.25 (genserve bf16 / llama.cpp BF16)",
        "  pass  gate: the best peer in int4, 1 clients, at least 0.9: 0.95 (genserve int4 / llama.cpp Q4_0)",
        "  FAIL  gate: the best peer in int4, 16 clients, at least 0.9: 0.86 (genserve int4 / llama.cpp Q4_0)",
        "  FAIL  aim: bf16, the best peer in bf16, 1 clients, at least 1.0: 0.91 (genserve bf16 / llama.cpp BF16)",
        "  pass  aim: bf16, the best peer in bf16, 16 clients, at least 1.1: 1.25 (genserve bf16 / llama.cpp BF16)",
        "  pass  aim: our best, the best peer, 1 clients, at least 0.9: 0.95 (genserve int4 / llama.cpp Q4_0)",
        "  FAIL  aim: our best, the best peer, 16 clients, at least 1.1: 0.86 (genserve int4 / llama.cpp Q4_0)",
        "  FAIL  16 clients, first text of genserve int4, p50, no later than Q4_0's: 500, 400 ms",
        "  FAIL  bf16, RSS at most 1.5 times llama.cpp's: 1.80",
        "  pass  genserve bf16, first completion within 3 s: 2.0 s",
        "  FAIL  genserve int4, first completion within 3 s: 4.0 s",
        "  FAIL  genserve bf16, 16 clients, of the raw loop at least 85%: 83% of 600",
    ]


def test_the_table_has_servers_and_ratios(run):
    head, *lines = text_report.table(run).splitlines()
    assert head.split()[:5] == ["tokens/s", "by", "clients", "1", "16"]
    assert " ".join(lines[0].split()) == "genserve bf16 100 500 100, 100 ms 100.0, 100.0 ms 2.0 s 900 MiB 2"
    assert lines[5:] == [
        "genserve bf16 / best peer:    0.53    0.71",
        "genserve bf16 / best peer in bf16:    0.91    1.25",
        "genserve int4 / best peer:    0.95    0.86",
        "genserve int4 / best peer in int4:    0.95    0.86",
    ]


def test_without_peers_there_is_a_table_still(run):
    run["servers"] = {name: run["servers"][name] for name in ("genserve bf16",)}
    assert len(text_report.table(run).splitlines()) == 2
    assert len(text_report.verdicts(run)) == 2  # the start, and the raw loop
