import pytest

from benchmarks import report


def load(rate, p99, failed=0):
    answered = [int(rate)] * 3
    rates = [rate * factor for factor in (0.9, 1.0, 1.3)]
    return {"throughput": rates, "p99": [p99] * 3, "answered": answered, "failed": [failed] * 3, "refused": [0] * 3}


def server(one, many, p99=0.01, failed=0):
    return {"how": "somehow", "closed": {"1": load(one, 0.001), "32": load(many, p99, failed)}, "open": []}


@pytest.fixture
def run():
    servers = {"genserve": server(500, 9000), "fastapi": server(600, 1000), "mosec": server(300, 5000, p99=0.02)}
    limit = {"cores": 2, "request": 1e-4, "model": 5e-5, "png": 1e-5, "client": 2e-5}
    limit |= {"throughput": 12_500.0, "beside_client": 11_111.0, "batch": 32}
    return {"dtype": "bfloat16", "servers": servers, "limit": limit}


def test_the_middle_of_the_rounds_counts(run):
    assert report.throughput(run["servers"]["mosec"], "32") == 5000


def test_nothing_answered_is_an_infinite_latency():
    assert report.middle({"p99": [None, None, None]}, "p99") == float("inf")


def test_the_best_peer_is_that_at_32_clients(run):
    assert report.best_peer(run["servers"]) == "mosec"


def test_every_gate_has_a_verdict(run):
    found = {verdict.what: verdict.passed for verdict in report.verdicts("dcgan-28", run)}
    assert found == {
        "32 clients, at least 1.5 times the best peer": True,
        "32 clients, p99 no worse than its": True,
        "1 client, no slower than plain FastAPI": False,
        "32 clients, at least 60 % of the limit": True,
    }


def test_the_large_generator_has_a_gate_of_its_own(run):
    (verdict,) = report.verdicts("dcgan-64", run)
    assert str(verdict) == "  pass  32 clients, at least 1.3 times the best peer: 1.80 (mosec)"


def test_the_table_has_servers_ratios_and_limit(run):
    run["servers"]["mosec"] = server(300, 5000, failed=1250)
    lines = report.table("dcgan-28", run).splitlines()
    assert lines[0] == "dcgan-28, bfloat16: requests/s by clients"
    assert [line.split()[0] for line in lines[2:5]] == ["genserve", "fastapi", "mosec"]
    assert "9,000" in lines[2]
    assert "19.1%" in lines[4]  # of all requests, those with one client included
    assert lines[5].split()[-2:] == ["0.83", "1.80"]
    assert lines[6].startswith("limit 12,500 requests/s: 2 cores / (request 100 us, model 50 us, png 10 us)")


def test_without_peers_there_is_a_table_still(run):
    run["servers"] = {"genserve": run["servers"]["genserve"]}
    assert "genserve" in report.table("dcgan-28", run)
    assert [verdict.what for verdict in report.verdicts("dcgan-28", run)] == ["32 clients, at least 60 % of the limit"]
